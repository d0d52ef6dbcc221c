"""What one pool knows of itself, and how it puts that into words. No decisions are made here.

members    every live connection; its `status` says where it is
idle       those that can be lent, the one returned last at the end
queue      borrowers without one, in order of arrival
checking   idle ones being checked, as long as the answer is not suspiciously late
closing    connections on their way out: the server still counts them, so the pool does too
opener     attempts under way, and the back-off after a failure
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from enum import Enum
from time import monotonic

from app.pool.config import PoolConfig
from app.pool.connection import PooledConnection, Status
from app.pool.errors import PoolClosing, PoolSaturated, PoolTimeout, PoolUnavailable
from app.pool.events import Level, Listener, PoolEvent
from app.pool.faults import NO_WRITABLE_SERVER, describe_error, fault_of, sqlstate_of
from app.pool.jobs import Jobs
from app.pool.leaks import LeakWatch
from app.pool.opener import Opener
from app.pool.queue import WaitQueue
from app.pool.stats import PoolStats, Tally

_SHED_BECAUSE = {
    "queue_full": "shed: the queue is full",
    "queue_target": "shed: the wait would exceed queue_target",
    "deadline": "shed: the wait would exceed its own timeout",
    "stale": "shed: it has waited for more than twice queue_target",
}
"""What the error says, by the reasons of `PoolSaturated`."""


class State(Enum):
    """Of a pool; the value completes "the pool ..."."""

    NEW = "is not open"
    OPEN = "is open"
    DRAINING = "is draining"
    CLOSED = "is closed"


class Books:
    """The state of one pool. `Circulation` moves what is written here."""

    opener: Opener

    def __init__(self, config: PoolConfig, listener: Listener) -> None:
        self.configure(config)
        self.listener = listener
        self.loop: asyncio.AbstractEventLoop | None = None
        self.done: asyncio.Future[None]
        self.state = State.NEW
        self.suspended = False
        self.first_size = 0
        """Connections to open at the start; 0 once they are there."""
        self.members: set[PooledConnection] = set()
        self.idle: list[PooledConnection] = []
        self.checking: set[PooledConnection] = set()
        self.closing: set[PooledConnection] = set()
        self.tally = Tally()
        self.queue = WaitQueue(
            config.queue_target, self.tally.wait, time_out=self.timed_out, turn_away=self.stale
        )
        self.leaks = LeakWatch(config.leak_threshold, self.tally, self.report)
        self.holders = self.leaks.holders
        self.jobs = Jobs(f"pool {config.name}")
        self.last_error: Exception | None = None
        """Why the last attempt to open a connection failed; None once one has succeeded."""
        self.generation = 0
        """Of the schema: how often it was found to have changed."""
        self.read_only_since: float | None = None
        """When a server that should take writes was found not to; None once one that does has been found."""
        self.suspect_since = 0.0
        """Connections not heard of since then are checked before they are lent."""
        self.settled = asyncio.Event()
        """Set while draining, once no connection and no waiter is left."""

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to this event loop."""
        self.loop = loop
        self.queue.create_future = loop.create_future
        self.done = loop.create_future()
        """Awaited where nothing has to be waited for."""
        self.done.set_result(None)

    def configure(self, config: PoolConfig) -> None:
        """Take new settings; those that every borrow looks at are kept at hand."""
        self.config = config
        self.validate_after = config.validate_after
        self.resets_every_time = config.resets_every_time
        self.has_setup = config.setup is not None

    @property
    def sessions(self) -> int:
        """What the server may count: live, opening and closing."""
        return len(self.members) + len(self.closing) + self.opener.under_way

    @property
    def lanes(self) -> int:
        """How many connections can serve the queue once all are open; 0 while there is none yet."""
        return self.config.max_size if self.members else 0

    def stands(self, objection: str, ahead: int = 0) -> bool:
        """Whether to turn a newcomer away for it. A full queue is no reason as long as there are connections
        that nobody has to return first: idle ones, those being checked, those that can be opened."""
        if objection != "queue_full" or self.suspended:
            return True
        room = max(self.config.max_size - len(self.members) - len(self.closing), 0)
        longest = self.config.max_waiting + len(self.idle) + len(self.checking) + room
        return self.queue.length + ahead >= longest

    def timed_out(self, stalled: bool) -> PoolTimeout:
        self.tally.timeouts += 1
        stats = self.stats()
        return PoolTimeout(f"no connection became free in time: {stats.summary()}", stats, stalled=stalled)

    def stale(self) -> PoolSaturated:
        return self.saturated("stale")

    def saturated(self, reason: str) -> PoolSaturated:
        self.tally.shed[reason] += 1
        stats = self.stats()
        wait = self.queue.expected_wait(monotonic(), self.lanes)
        return PoolSaturated(
            f"{_SHED_BECAUSE[reason]} ({reason}): {stats.summary()}", stats, reason=reason, retry_after=wait
        )

    def unavailable(self) -> PoolUnavailable:
        stats = self.stats()
        unavailable = PoolUnavailable(
            f"no connection can be opened: {stats.summary()}",
            stats,
            retry_after=self.opener.retry_in(monotonic()),
        )
        unavailable.__cause__ = self.last_error
        return unavailable

    def refuse_queue(self, error: Callable[[], Exception]) -> int:
        """Answer every waiter with an error of his own; how many there were."""
        refused = 0
        for waiter in self.queue.drop_all():
            waiter.set_exception(error())
            refused += 1
        return refused

    def closed_to_all(self) -> PoolClosing:
        return PoolClosing(f"the pool {self.state.value}", self.stats())

    def report(
        self,
        level: Level,
        event: str,
        /,
        *,
        about: PooledConnection | None = None,
        error: BaseException | None = None,
        **details: object,
    ) -> None:
        """Tell the listener; its failure is logged and goes no further.

        `about` is the connection that it concerns and `error` what was raised: they become the process id,
        the client address and the SQLSTATE by which the session is found in the server's log.
        """
        if error is not None:
            details["error"] = describe_error(error)
        if about is not None:
            details |= {"backend_pid": about.backend_pid, "client_address": about.client_address}
        if code := (error and sqlstate_of(error)) or (about and about.sqlstate):
            details["sqlstate"] = code
        try:
            self.listener(PoolEvent(event, level, details, self.stats()))
        except Exception:
            logging.getLogger("app.pool").exception("the listener of pool events failed")

    @property
    def fault(self) -> str | None:
        """The class of what is wrong with the server, or the way to it; None while nothing is known to be."""
        if self.read_only_since is not None and self.members:
            return NO_WRITABLE_SERVER.name
        return fault_of(self.last_error).name if self.last_error else None

    def stats(self) -> PoolStats:
        now = monotonic()
        tally = self.tally
        at = Counter(pooled.status for pooled in self.members)
        return PoolStats(
            name=self.config.name,
            min_size=self.config.min_size,
            max_size=self.config.max_size,
            size=len(self.members),
            idle=at[Status.IDLE],
            used=at[Status.IN_USE],
            opening=self.opener.under_way,
            closing=len(self.closing),
            returning=at[Status.RETURNING],
            validating=at[Status.CHECKING],
            waiting=self.queue.length,
            oldest_wait=self.queue.oldest_wait(now),
            standing_queue=self.queue.standing(now),
            utilisation=at[Status.IN_USE] / self.config.max_size,
            borrowed=tally.borrowed,
            opened=tally.opened,
            open_failures=tally.open_failures,
            closed=dict(tally.closed),
            resets=tally.resets,
            timeouts=tally.timeouts,
            shed=dict(tally.shed),
            leaks=dict(tally.leaks),
            reuse_rate=tally.reuse_rate,
            suspended=self.suspended,
            closing_down=self.state in {State.DRAINING, State.CLOSED},
            fault=self.fault,
            last_error=describe_error(self.last_error) if self.last_error else None,
            wait=tally.wait.snapshot(zeros=tally.lent_at_once),
            use=tally.use.snapshot(),
            create=tally.create.snapshot(),
        )
