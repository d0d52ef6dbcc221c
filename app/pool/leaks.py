"""Borrowers that hold too long, forget, or ask for a second helping: each reported once."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict

from app.pool.connection import PooledConnection, Status
from app.pool.events import LeaseInfo
from app.pool.places import Place, borrowed_at, route_of, where_it_stands
from app.pool.stats import Tally

Holder = weakref.ref[asyncio.Task[object]]
Report = Callable[..., None]
"""`report(level, event, **details)`"""


def lease_info(pooled: PooledConnection, now: float) -> LeaseInfo:
    """Who holds the connection, since when, from where, and where that task stands."""
    task = pooled.task() if pooled.task is not None else None
    return LeaseInfo(
        backend_pid=pooled.backend_pid,
        client_address=pooled.client_address,
        held_for=now - pooled.borrowed_at,
        borrowed_at=borrowed_at(pooled.place, pooled.caller),
        route=route_of(pooled.caller),
        task=task.get_name() if task is not None and not task.done() else None,
        stands_at=where_it_stands(task),
        overdue=pooled.overdue,
    )


class LeakWatch:
    """Watches leases; knows their tasks only by weak reference."""

    def __init__(self, threshold: float, tally: Tally, report: Report) -> None:
        self._threshold = threshold
        self._tally = tally
        self._report = report
        self.holders: dict[Holder | None, PooledConnection] = {}
        """Which task holds which connection; the last one, if it holds several."""
        self._nested_places: set[tuple[Place | None, str | None]] = set()
        """Places and routes that have been reported."""
        self._left_behind: set[tuple[Place | None, str | None, str]] = set()

    def nested(self, pooled: PooledConnection) -> None:
        """Its borrower holds one already. Tasks that do so can wait for each other for ever: if `Tn` tasks
        need `Cm` connections each, a pool needs `Tn * (Cm - 1) + 1` (HikariCP's formula)."""
        held = self.holders[pooled.task]
        where = pooled.place, route_of(pooled.caller)
        if pooled.task is None or where in self._nested_places:
            return
        self._nested_places.add(where)
        self._tally.leaks["nested"] += 1
        self._report(
            "warning",
            "nested_borrow",
            about=pooled,
            borrowed_at=borrowed_at(pooled.place, pooled.caller),
            already_holding_from=borrowed_at(held.place, held.caller),
            already_holding_pid=held.backend_pid,
            route=route_of(pooled.caller),
        )

    def left_behind(self, pooled: PooledConnection, what: str) -> None:
        """It came back with something that its borrower should have ended. Told once a place and route."""
        key = (pooled.place, route_of(pooled.caller), what)
        if key in self._left_behind:
            return
        self._left_behind.add(key)
        self._report(
            "warning",
            "left_behind",
            about=pooled,
            what=what,
            borrowed_at=borrowed_at(pooled.place, pooled.caller),
            route=route_of(pooled.caller),
        )

    def returned_late(self, pooled: PooledConnection, now: float) -> None:
        """An overdue lease has come back after all."""
        pooled.overdue = False
        self._report(
            "info",
            "overdue_lease_returned",
            about=pooled,
            held_for=now - pooled.borrowed_at,
            borrowed_at=borrowed_at(pooled.place, pooled.caller),
            route=route_of(pooled.caller),
        )

    def abandoned(self, pooled: PooledConnection, now: float) -> None:
        """The lease was garbage-collected without having been returned."""
        self._tally.leaks["abandoned"] += 1
        self._report("warning", "lease_abandoned", **asdict(lease_info(pooled, now)))

    def look(self, members: Iterable[PooledConnection], now: float) -> None:
        """Report every lease that has become overdue since the last look."""
        if not self._threshold:
            return
        for pooled in members:
            if pooled.status is not Status.IN_USE or pooled.overdue:
                continue
            if now - pooled.borrowed_at > self._threshold:
                pooled.overdue = True
                self._tally.leaks["overdue"] += 1
                self._report("warning", "lease_overdue", **asdict(lease_info(pooled, now)))
