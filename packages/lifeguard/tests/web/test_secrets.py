"""Canaries: passwords and tokens that must never leave the process, looked for in all that does."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from fastapi import APIRouter
from lifeguard.testing.processes import running
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import ConnectionDep

from packages.lifeguard.tests.checkout import SAMPLE
from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.web.conftest import Log

PASSWORD = 'canary:"p@ss/wörd\\'
TOKEN = "canary-token-0123456789"

routes = APIRouter(prefix="/test")


@routes.get("/confess")
async def confess(connection: ConnectionDep) -> None:
    """An error whose text has every secret in every form."""
    raise RuntimeError(f"{PASSWORD} {PASSWORD!r} {quote(PASSWORD, safe='')} {TOKEN}")


@pytest.fixture
async def guarded(migrated_database: str, postgres: PostgresServer) -> AsyncIterator[Service]:
    """In production, as a role with a password that is a canary."""
    async with postgres.connect() as admin:
        await admin.execute("CREATE ROLE canary SUPERUSER LOGIN")
        quoted = await admin.fetchval("SELECT quote_literal($1::text)", PASSWORD)
        await admin.execute(f"ALTER ROLE canary PASSWORD {quoted}")
    server = urlsplit(migrated_database)
    login = f"canary:{quote(PASSWORD, safe='')}@{server.netloc.rpartition('@')[2]}"
    settings = settings_for(
        server._replace(netloc=login).geturl(),
        app_env="production",
        ops_token=TOKEN,
        docs=True,
        log_level="debug",
    )
    try:
        async with service(settings, routes=routes) as guarded_service:
            yield guarded_service
    finally:
        async with postgres.connect() as admin:
            await admin.execute("DROP ROLE canary")


async def test_no_secret_leaves_the_process(guarded: Service, postgres: PostgresServer, log: Log) -> None:
    await until_ready(guarded)
    told = [
        await guarded.client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        for path in (
            *("/healthz", "/readyz", "/metrics", "/pool", "/pool/live", "/pool/leases", "/openapi.json"),
            *("/test/confess", "/nowhere", "/items?limit=x", f"/items?limit={quote(PASSWORD)}"),
        )
    ]
    async with postgres.connect() as admin:
        # From here on the password is wrong, and what the driver says of that is logged and told.
        await admin.execute("ALTER ROLE canary PASSWORD 'another'")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'canary'")

    async def degraded() -> bool:
        return "degraded" in (await guarded.client.get("/readyz")).text

    await eventually(degraded)
    told += [await guarded.client.get(path) for path in ("/readyz", "/items", "/pool", "/metrics")]
    lines = json.dumps(log(), ensure_ascii=False)
    everything = lines + "".join(f"{answer.headers}{answer.text}" for answer in told)
    assert "unforeseen_error" in lines
    assert "canary" in everything  # the role's name is no secret
    assert not [form for form in FORMS if form in everything]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks the kernel")
async def test_no_secret_from_a_file_shows_in_the_process(
    migrated_database: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    """Neither in its arguments nor in its environment, which every child and crash report inherits."""
    for name, secret in {"password": postgres.password, "ops_token": TOKEN}.items():
        (tmp_path / name).write_text(secret)
    server = urlsplit(migrated_database)
    variables = {
        "APP_ENV": "production",
        "DATABASE_URL": server._replace(netloc=f"postgres@{server.netloc.rpartition('@')[2]}").geturl(),
        "DATABASE_PASSWORD_FILE": str(tmp_path / "password"),
        "OPS_TOKEN_FILE": str(tmp_path / "ops_token"),
        "LOG_LEVEL": "debug",
        "DRAIN_DELAY": "0",
    }
    async with running(["-m", SAMPLE, "serve"], cwd=tmp_path, variables=variables) as process:
        await eventually(lambda: process.answers("/readyz"))
        shown = [Path(f"/proc/{process.process.pid}/{what}").read_text() for what in ("cmdline", "environ")]
        await process.end()
    assert not [
        secret for secret in (postgres.password, TOKEN) if secret in "".join((*shown, process.output))
    ]


FORMS = {
    PASSWORD,
    repr(PASSWORD)[1:-1],
    quote(PASSWORD, safe=""),
    "p@ss",
    "p%40ss",
    "wörd",
    TOKEN,
}
