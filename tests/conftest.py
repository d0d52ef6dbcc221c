"""What every test here may ask for besides the fixtures of `lifeguard.testing`.

migrated_database   a new database with the service's schema on `postgres`
"""

from collections.abc import Iterator

import pytest
from lifeguard.database.migrations import upgrade
from lifeguard.testing.plugin import run
from lifeguard.testing.servers import PostgresServer
from pydantic import SecretStr

from app.settings import Settings


@pytest.fixture(scope="session")
def migrated_template(postgres: PostgresServer) -> Iterator[str]:
    """The name of a database with the service's schema, from which others are copied."""
    name = run(postgres.create_database())
    run(upgrade(Settings(database_url=SecretStr(postgres.dsn(name)))))
    yield name
    run(postgres.drop_database(name))


@pytest.fixture
def migrated_database(postgres: PostgresServer, migrated_template: str) -> Iterator[str]:
    name = run(postgres.create_database(template=migrated_template))
    yield postgres.dsn(name)
    run(postgres.drop_database(name))
