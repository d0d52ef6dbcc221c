"""Statements as the server counts them, found in the source."""

from pathlib import Path

import pytest
from lifeguard.operations.checks.places import Places, source_of
from lifeguard.testing.plugin import ServerFactory

from packages.lifeguard.tests.sample.settings import Settings

SOURCE = '''
"""SELECT nothing: this is prose."""

FIND = "SELECT id, 7 AS seven FROM people WHERE name = $1 AND kind IN ('a', 'b', 'c')"

async def find(connection, name):
    return await connection.fetch(FIND, name)

class Repository:
    async def page(self, connection, order):
        return await connection.fetch(
            f"SELECT id FROM people ORDER BY {order} LIMIT 10"
        )

    async def add(self, connection):
        sql = "INSERT INTO people (name, kind, active) " + "VALUES ($1, 'x', true)"
        await connection.execute(sql, "somebody")

def built(table):
    return "DELETE FROM {table} WHERE id = $1".format(table=table)
'''
RUN = [
    ("SELECT id, 7 AS seven FROM people WHERE name = $1 AND kind IN ('a', 'b', 'c')", "x", "4 in find"),
    ("SELECT id FROM people ORDER BY name LIMIT 10", None, "12 in Repository.page"),
    ("INSERT INTO people (name, kind, active) VALUES ($1, 'x', true)", "x", "16 in Repository.add"),
    ("DELETE FROM people WHERE id = $1", 1, "20 in built"),
    ("SELECT count(*) FROM people WHERE active", None, None),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "people.py").write_text(SOURCE)
    (folder / "broken.py").write_text("SELECT id FROM people ORDER BY name LIMIT 10 (")
    return folder


async def test_each_is_found_as_the_server_has_it(server_factory: ServerFactory, source: Path) -> None:
    server = await server_factory(shared_preload_libraries="pg_stat_statements")
    places = Places(source)
    async with server.connect() as connection:
        await connection.execute("CREATE TABLE people (id serial, name text, kind text, active bool)")
        await connection.execute("CREATE EXTENSION pg_stat_statements")
        for statement, argument, place in RUN:
            await connection.execute("SELECT pg_stat_statements_reset()")
            await connection.fetch(statement, *([] if argument is None else [argument]))
            counted = await connection.fetchval(
                "SELECT query FROM pg_stat_statements WHERE strpos(query, 'people') > 0 LIMIT 1"
            )
            assert places.of(counted) == (place and f"shop/people.py:{place}"), counted


def test_the_source_is_that_of_the_settings_class() -> None:
    assert source_of(Settings)[0].name == "sample"
