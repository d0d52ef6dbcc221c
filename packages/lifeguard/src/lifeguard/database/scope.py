"""What the database layer knows of the request it works for: its tag, its deadline, its caller.

The web middleware sets a scope for each request; a script may set its own:

    token = call_scope.set(CallScope("nightly-report", deadline=loop.time() + 60, lane="reports"))
    try: ...
    finally: call_scope.reset(token)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from lifeguard.database.errors import DeadlineExceeded
from lifeguard.database.position import Position
from lifeguard.pool import Caller, Priority

T = TypeVar("T")


@dataclass(slots=True)
class CallScope:
    """One call from outside, for instance an HTTP request."""

    tag: str
    """Shown in `pg_stat_activity.application_name`, after the service's name."""
    deadline: float | None = None
    """Event-loop time after which the client no longer waits."""
    caller: Caller | None = None
    """Named in reports of leaks."""
    lane: Hashable | None = None
    """In which it borrows from the pools; None is that of what belongs to no call, see `Database`."""
    priority: Priority | None = None
    """In the queue of its lane, and where somebody has to be turned away; None as with the lane."""
    notes_writes: bool = True
    """Whether it is noted where its writes are in the WAL, which takes a round trip after each COMMIT where
    there are replicas."""
    written: Position | None = None
    """The last of them."""
    after: Position | None = None
    """Where a write is that its reads have to see, from its client's token."""


call_scope: ContextVar[CallScope | None] = ContextVar("call_scope", default=None)


def current_tag() -> str:
    """The tag of the current call; empty outside of one."""
    scope = call_scope.get()
    return scope.tag if scope else ""


def current_caller() -> Caller | None:
    """The caller for whom connections are borrowed now, if the scope names one."""
    scope = call_scope.get()
    return scope.caller if scope else None


def current_deadline() -> float | None:
    """Event-loop time at which the current call ends; None if nothing ends it."""
    scope = call_scope.get()
    return scope.deadline if scope else None


def time_left(deadline: float) -> float:
    """Seconds until `deadline`. Raises DeadlineExceeded when there are none."""
    left = deadline - asyncio.get_running_loop().time()
    if left <= 0:
        raise DeadlineExceeded("the call's time was up before the statement could be sent")
    return left


async def within_deadline(work: Awaitable[T]) -> T:
    """Await what precedes the call's own statements, a BEGIN for instance, until its deadline.

    Raises DeadlineExceeded then, which says that it was the call's time that was up.
    """
    deadline = current_deadline()
    if deadline is None:
        return await work
    try:
        async with asyncio.timeout_at(deadline) as bound:
            return await work
    except TimeoutError as error:
        if bound.expired():
            raise DeadlineExceeded("the call's time was up before the statement could be sent") from error
        raise
