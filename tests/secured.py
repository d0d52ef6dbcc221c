"""A server as production has it: with the roles of `deploy/postgres`, made by its own scripts."""

import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

import asyncpg
from lifeguard.development.embedded import HOST, binaries
from lifeguard.testing.servers import PostgresServer, copy_cluster, server_directory

from tests.processes import ROOT

SCRIPTS = ROOT / "deploy" / "postgres" / "initdb.d"
DATABASE = "production"
PASSWORDS = {
    role: f"canary-{role} '\"\\ $HOME :role `id`" for role in ("migrator", "app", "monitor", "replicator")
}


class SecuredServer:
    """A server with the database `DATABASE`, and the files that the scripts take the passwords from."""

    def __init__(self, server: PostgresServer, directory: Path) -> None:
        self.server = server
        self.secrets = directory
        for role, password in PASSWORDS.items():
            (directory / f"{role}_password").write_text(password + "\n")

    def dsn(self, role: str, database: str = DATABASE) -> str:
        return f"postgresql://{role}:{quote(PASSWORDS[role], safe='')}@{HOST}:{self.server.port}/{database}"

    @asynccontextmanager
    async def connect(self, role: str, database: str = DATABASE) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.dsn(role, database))
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def create_database(self, owner: str = "postgres") -> None:
        async with self.server.connect() as admin:
            await admin.execute(f"CREATE DATABASE {DATABASE} OWNER {owner}")

    def set_up(self, *, user: str = "postgres", password: str | None = None, image: bool = False) -> None:
        """Run what the image runs, which knows where the data is, or somebody by hand.

        Raises CalledProcessError.
        """
        script, grants = SCRIPTS / "10-roles.sh", SCRIPTS / "20-grants.sql"
        variables = {
            **os.environ,
            "PATH": f"{binaries()}:{os.environ['PATH']}",
            "PGHOST": HOST,
            "PGPORT": str(self.server.port),
            "PGPASSWORD": password or self.server.password,
            "POSTGRES_USER": user,
            "POSTGRES_DB": DATABASE,
            "SECRETS_DIR": str(self.secrets),
            "PGDATA": str(self.server.directory / "data") if image else "",
        }
        psql = ["psql", "-qX", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", DATABASE, "-f", str(grants)]
        for command in (["sh", str(script)], psql):
            subprocess.run(command, env=variables, check=True, capture_output=True, text=True, timeout=30)

    def says_who_it_is(self, role: str) -> str:
        """What a server tells a standby that logs in as `role`. Raises CalledProcessError."""
        options = urlencode({"replication": "true"})
        command = [str(binaries() / "psql"), "-XAt", f"{self.dsn(role)}?{options}", "-c", "IDENTIFY_SYSTEM"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
        return done.stdout


@asynccontextmanager
async def secured_server(
    cluster: Path, secrets: Path, parameters: Mapping[str, str] | None = None
) -> AsyncIterator[SecuredServer]:
    """Start a copy of the cluster and set it up."""
    with server_directory() as directory:
        server = PostgresServer(copy_cluster(cluster, directory / "secured"), parameters)
        await server.start()
        try:
            secured = SecuredServer(server, secrets)
            await secured.create_database()
            secured.set_up()
            yield secured
        finally:
            server.close()
