"""STAND-IN, to be merged into app.pool: `begin` and `commit` on a lease."""
# ruff: noqa: SLF001

from __future__ import annotations

from typing import Any

import asyncpg
from asyncpg.transaction import Transaction, TransactionState

from app.pool import Isolation, Lease, driver


def _session(lease: Lease) -> Any:
    if lease._con is None:
        raise asyncpg.InterfaceError("the connection has been released back to the pool")
    return lease._con


async def begin(
    lease: Lease,
    *,
    isolation: Isolation | None = None,
    read_only: bool = False,
    deferrable: bool = False,
    prelude: str = "",
) -> Transaction:
    """`driver.begin` on the lease's connection."""
    return await driver.begin(
        _session(lease),
        isolation=isolation,
        read_only=read_only,
        deferrable=deferrable,
        prelude=prelude,
    )


async def commit(lease: Lease, transaction: Transaction, *, timeout: float) -> str:
    """Commit what `begin` began, within `timeout` seconds; what the server calls it.

    `COMMIT`, or `ROLLBACK` when a statement had failed and its error was swallowed: asyncpg's own
    `Transaction.commit()` keeps that to itself (`_top_xact`, `_state`).
    """
    connection = _session(lease)
    begun: Any = transaction
    if begun._state is not TransactionState.STARTED:
        raise asyncpg.InterfaceError(f"the transaction is {begun._state.name.lower()}")
    connection._top_xact = None
    try:
        status: str = await connection.execute("COMMIT", timeout=timeout)
    except BaseException:
        begun._state = TransactionState.FAILED
        raise
    begun._state = TransactionState.COMMITTED
    return status
