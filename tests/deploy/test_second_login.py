"""The service's second login, which deploy/rotate puts in place: `deploy/postgres/initdb.d/30-login.sh`."""

import os
import subprocess
from pathlib import Path

import asyncpg
import pytest
from lifeguard.development.embedded import HOST, binaries

from tests.secured import DATABASE, PASSWORDS, SCRIPTS, SecuredServer

SETTINGS = "SELECT setconfig FROM pg_db_role_setting WHERE setrole = $1::regrole"


def let_in(secured: SecuredServer, **variables: str) -> None:
    environment = {
        **os.environ,
        "PATH": f"{binaries()}:{os.environ['PATH']}",
        "PGHOST": HOST,
        "PGPORT": str(secured.server.port),
        "PGPASSWORD": secured.server.password,
        "POSTGRES_DB": DATABASE,
        **variables,
    }
    command = ["sh", str(SCRIPTS / "30-login.sh")]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=30)


async def test_has_the_rights_and_the_settings_of_app(
    secured: SecuredServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PASSWORDS, "app_b", PASSWORDS["app"].replace("app", "app_b"))
    (tmp_path / "app_b_password").write_text(f"{PASSWORDS['app_b']}\n")
    for _ in range(2):
        let_in(secured, SECRETS_DIR=str(tmp_path))
    async with secured.connect("migrator") as migrator, secured.connect("app_b") as login:
        await migrator.execute("CREATE TABLE made_by_migrator (id int)")
        await login.execute("INSERT INTO made_by_migrator VALUES (1)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await login.execute("CREATE TABLE mine (id int)")
    async with secured.server.connect(DATABASE) as superuser:
        assert await superuser.fetchval(SETTINGS, "app_b") == await superuser.fetchval(SETTINGS, "app")
    assert "canary" not in (secured.server.directory / "server.log").read_text()


async def test_another_role_gets_its_next_password(
    secured: SecuredServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = PASSWORDS["monitor"], "canary-next"
    for password in (after, before):
        (tmp_path / "next").write_text(password)
        let_in(secured, ROLE="monitor", PASSWORD_FILE=str(tmp_path / "next"))
        monkeypatch.setitem(PASSWORDS, "monitor", password)
        async with secured.connect("monitor"):
            pass


def test_there_is_none_before_the_first_rotation(secured: SecuredServer, tmp_path: Path) -> None:
    let_in(secured, SECRETS_DIR=str(tmp_path))
    with pytest.raises(subprocess.CalledProcessError):
        let_in(secured, ROLE="app_b", SECRETS_DIR=str(tmp_path))
