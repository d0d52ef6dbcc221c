"""Leases that are held too long, never returned, or borrowed while another is held: each reported once."""

from __future__ import annotations

from dataclasses import asdict

from lifeguard.pool.callsite import CallSite, awaited_by, borrowed_at, frames_of, route_of
from lifeguard.pool.connection import PooledConnection, Status
from lifeguard.pool.events import LeaseInfo, Reporter
from lifeguard.pool.lane import label_of
from lifeguard.pool.names import PRIORITIES
from lifeguard.pool.state import PoolState

_RETURN_FIRST = (
    "return the connection before waiting for anything but the database, and borrow again after it"
)


def lease_info(pooled: PooledConnection, now: float) -> LeaseInfo:
    """Who holds the connection, since when, from where, and where that task waits now."""
    lane, place = pooled.lane, pooled.place
    only = label_of(place[0]) if place is not None else None  # none holds it as long as there is only one
    task = pooled.task() if pooled.task is not None else None
    return LeaseInfo(
        backend_pid=pooled.backend_pid,
        client_address=pooled.client_address,
        held_for=now - pooled.borrowed_at,
        borrowed_at=borrowed_at(pooled.call_site, pooled.caller),
        route=route_of(pooled.caller),
        task=task.get_name() if task is not None and not task.done() else None,
        stack=frames_of(task),
        waiting_for=awaited_by(task),
        overdue=pooled.overdue,
        lane=lane.label if lane is not None else only,
        priority=PRIORITIES[place[1]] if place is not None else "normal",
    )


class LeakWatch:
    """Watches leases; knows their tasks only by weak reference."""

    def __init__(self, state: PoolState, report: Reporter) -> None:
        self._state = state
        self._report = report
        self._nested: set[tuple[CallSite | None, str | None]] = set()
        """Call sites and routes that have been reported."""
        self._left_behind: set[tuple[CallSite | None, str | None, str]] = set()

    def nested(self, pooled: PooledConnection) -> None:
        """Its borrower holds another one. Tasks that do so can wait for each other for ever: for `Tn` tasks
        of `Cm` connections each a pool needs `Tn * (Cm - 1) + 1` (HikariCP's formula)."""
        held = self._state.holders[pooled.task]
        where = pooled.call_site, route_of(pooled.caller)
        if pooled.task is None or where in self._nested:
            return
        self._nested.add(where)
        self._state.tally.leaks["nested"] += 1
        self._report(
            "warning",
            "nested_borrow",
            about=pooled,
            borrowed_at=borrowed_at(pooled.call_site, pooled.caller),
            already_holding_from=borrowed_at(held.call_site, held.caller),
            already_holding_pid=held.backend_pid,
            route=route_of(pooled.caller),
        )

    def left_behind(self, pooled: PooledConnection, what: str) -> None:
        """It came back with something that its borrower should have ended. Told once for a call site."""
        key = (pooled.call_site, route_of(pooled.caller), what)
        if key in self._left_behind:
            return
        self._left_behind.add(key)
        self._report(
            "warning",
            "left_behind",
            about=pooled,
            what=what,
            borrowed_at=borrowed_at(pooled.call_site, pooled.caller),
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
            borrowed_at=borrowed_at(pooled.call_site, pooled.caller),
            route=route_of(pooled.caller),
        )

    def abandoned(self, pooled: PooledConnection, now: float) -> None:
        """The lease was garbage-collected without having been returned."""
        self._state.tally.leaks["abandoned"] += 1
        self._report("warning", "lease_abandoned", **asdict(lease_info(pooled, now)))

    def look(self, now: float) -> None:
        """Report every lease that has become overdue since the last look."""
        threshold = self._state.config.leak_threshold
        if not threshold:
            return
        for pooled in self._state.members:
            if pooled.status is not Status.IN_USE or pooled.overdue:
                continue
            if now - pooled.borrowed_at > threshold:
                pooled.overdue = True
                self._state.tally.leaks["overdue"] += 1
                held = lease_info(pooled, now)
                details = asdict(held) | ({"remedy": _RETURN_FIRST} if held.waiting_for else {})
                self._report("warning", "lease_overdue", **details)
