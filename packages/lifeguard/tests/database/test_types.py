"""What a connection may be used for is checked before anything runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from packages.lifeguard.tests.checkout import ROOT

USES = """
from lifeguard.database import Connection, Database, ReadConnection, Transaction

async def read(connection: ReadConnection) -> object:
    return await connection.fetchval("SELECT 1")

async def write(connection: Connection) -> object:
    return await connection.execute("DELETE FROM accounts")

async def move(transaction: Transaction) -> object:
    async with transaction.transaction():
        return await transaction.execute("DELETE FROM accounts")

async def use(database: Database) -> None:
    async with database.read() as reading:
        await read(reading)
        await reading.execute("DELETE FROM accounts")  # refused
        await write(reading)  # refused
        await move(reading)  # refused
    async with database.connection() as connection:
        await read(connection)
        await write(connection)
        await move(connection)  # refused
        connection.transaction()  # refused
    async with database.transaction() as transaction:
        await read(transaction)
        await write(transaction)
        await move(transaction)
    await database.run_in_transaction(move)
"""


@pytest.mark.timeout(180)
def test_a_connection_is_good_for_what_its_type_says_and_no_more(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(USES)
    command = [sys.executable, "-m", "mypy", str(snippet)]  # with the cache of `make check`
    mypy = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    refused = {int(line) for line in re.findall(r"snippet\.py:(\d+): error:", mypy.stdout)}
    lines = USES.splitlines()
    assert refused == {number for number, line in enumerate(lines, start=1) if "# refused" in line}, (
        mypy.stdout + mypy.stderr
    )
