"""The statements with which the pool asks, rolls back and resets a session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import asyncpg

from lifeguard.pool import driver
from lifeguard.pool.config import Hook
from lifeguard.pool.effects import Effect

T = TypeVar("T")

# Seconds for each step: the cancel, the rollback, the reset. A session that needs longer is cut.
STEP_BOUND = 5.0
# For a cancel request that cannot be sent, because new connections get no answer. To cut the session would
# not help, for no other could be opened, and the server ends most statements by itself before that.
UNSENT_CANCEL_BOUND = 15.0

# What asyncpg's own `Connection.reset()` leaves: it unlistens, unlocks, closes cursors and runs
# RESET ALL, which spares the role, temporary tables, sequence values and SQL-level PREPAREs.
# Settings come first, so that no borrower's search_path decides what the other names mean.
_REST_OF_RESET = """
SET SESSION AUTHORIZATION DEFAULT;
RESET ROLE;
RESET ALL;
DISCARD TEMP;
DISCARD SEQUENCES;
DO $$ DECLARE statement text; BEGIN
  FOR statement IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP
    EXECUTE pg_catalog.format('DEALLOCATE %I', statement);
  END LOOP;
END $$;
"""


async def roll_back(connection: asyncpg.Connection) -> bool:
    """End a cancelled query and an open transaction; True if that brought an answer of the server.

    Raises what the driver raises when that takes longer than the bound.
    """
    await driver.finish_cancelling(connection, STEP_BOUND, UNSENT_CANCEL_BOUND)
    return await _past_cancellation(partial(driver.roll_back, connection, STEP_BOUND))


async def reset(connection: asyncpg.Connection) -> None:
    """Bring the session back to the state of a new one."""
    await _past_cancellation(partial(connection.execute, _REST_OF_RESET, timeout=STEP_BOUND))
    await connection.reset(timeout=STEP_BOUND)


async def ping(connection: asyncpg.Connection, timeout: float = STEP_BOUND) -> None:
    """One round trip; raises when the session cannot run a statement now."""
    await _past_cancellation(partial(connection.execute, "SELECT 1", timeout=timeout))


async def renew_caches(connection: asyncpg.Connection) -> None:
    """Have the session forget prepared statements and types."""
    driver.forget_caches(connection)
    async with asyncio.timeout(STEP_BOUND):
        await driver.close_forgotten_statements(connection)


async def is_read_only(
    connection: asyncpg.Connection, timeout: float = STEP_BOUND, *, by_default: bool = True
) -> bool:
    """Whether the server refuses writes, not just one transaction: it is a standby, or (`by_default`) its
    transactions are read-only by default. One round trip, with nothing prepared: it serves as a ping."""
    question = "SELECT 1 WHERE pg_catalog.pg_is_in_recovery()"
    if by_default:
        question += " OR pg_catalog.current_setting('default_transaction_read_only')::pg_catalog.bool"
    return bool(await connection.execute(question, timeout=timeout) == "SELECT 1")


async def make_fit(
    connection: asyncpg.Connection, *, effect: Effect, loose: bool, hook: Hook | None, resets: bool
) -> tuple[bool, bool]:
    """Do what a returned session needs before it is lent again, and no more. Whether it was reset, and
    whether the server has answered on it.

    Raises when that fails: the caller closes the session.
    """
    answered = await roll_back(connection)
    if hook is not None:
        async with asyncio.timeout(STEP_BOUND):
            await hook(connection)
        driver.check_transaction_ended(connection, "reset")
        return True, answered
    if resets or effect is Effect.DIRTY:
        await reset(connection)
        return True, True
    if loose and not answered:
        await ping(connection)
    return False, answered or loose


async def _past_cancellation(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call, and again if it was cancelled in the place of what came before.

    asyncpg prepares a statement without a Sync: the server's clock for it runs until the next message. If the
    borrower was broken off in between, that message is answered with the cancellation, and not run. The
    answer ends the clock, and in a transaction its `SET LOCAL statement_timeout`.
    """
    try:
        return await call()
    except asyncpg.QueryCanceledError:
        return await call()
