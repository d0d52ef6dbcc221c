"""What Alembic runs: the revisions, on the connection it is given or on one of the service's own.

`python -m app migrate` is the way to migrate; it locks and looks first. Alembic's own commands are
for development, on DATABASE_URL or on the embedded server of `make run`:
`alembic revision -m "what changes"`, `alembic downgrade -1`, `alembic upgrade --sql`.
"""

import asyncio
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext
from lifeguard.commands import database_to_look_at
from lifeguard.database.migrations import connected
from sqlalchemy import Connection

from app.settings import Settings

# Where the service has a role of its own (deploy/postgres), it reads the revision and cannot change it.
APP_ONLY_READS_IT = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'app' AND rolname <> current_user) THEN
        REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM app;
    END IF;
END $$
"""


def keep_revision_from_app(ctx: MigrationContext, *_: Any, **__: Any) -> None:
    assert ctx.connection is not None
    ctx.connection.exec_driver_sql(APP_ONLY_READS_IT)


def migrate(connection: Connection) -> None:
    # A transaction a revision: what is done stays done when a later one fails.
    context.configure(
        connection=connection, transaction_per_migration=True, on_version_apply=keep_revision_from_app
    )
    with context.begin_transaction():
        context.run_migrations()


def print_sql() -> None:
    context.configure(dialect_name="postgresql", literal_binds=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_by_hand(settings: Settings) -> None:
    async with connected(settings) as connection:
        await connection.run_sync(migrate)


given: Connection | None = context.config.attributes.get("connection")
if context.is_offline_mode():
    print_sql()
elif given is not None:
    migrate(given)
else:
    with database_to_look_at(Settings) as found:
        asyncio.run(migrate_by_hand(found))
