"""How connections go round: who gets which one, and when. Decisions only; what takes time is a job.

    opening -> idle <-> in use -> returning -> idle        and from anywhere -> closing -> gone
                    <-> checking

Everything runs on one event loop and every decision is made without suspending, so there are no locks:
between two `await`s the books are balanced.
"""

from __future__ import annotations

import asyncio
import random
from bisect import insort
from collections.abc import Callable, Iterable
from contextvars import Context
from functools import partial
from operator import attrgetter
from time import monotonic

import asyncpg

from app.pool import driver, returning
from app.pool.books import Books, State
from app.pool.config import PoolConfig
from app.pool.connect import Connector
from app.pool.connection import CLOSED_BY_BORROWER, PooledConnection, Status
from app.pool.events import Level, Listener
from app.pool.faults import fault_of, is_fatal, is_same, sqlstate_of, stays
from app.pool.hygiene import Effect
from app.pool.lease import Lease
from app.pool.opener import Opener
from app.pool.queue import Waiter

# Seconds. A check that has not come back by then no longer counts as help for the waiter...
_CHECK_PATIENCE = 0.1
# ...and one that has not come back by then has failed.
_CHECK_BOUND = 2.0
# Goodbye to the server, the cancel of a running query included; then the socket is cut.
CLOSE_BOUND = 5.0
# Connections lost within this time of each other are one incident, and one event.
_SAME_INCIDENT = 1.0
_LIFETIME_JITTER = 0.1
# Idle for longer than a turn of a busy event loop: the server may have ended the session meanwhile, and the
# loop not have read it. To ask the kernel costs less than a microsecond.
_UNREAD_AFTER = 0.001
# Closed for one of these, a connection is cut at once: it could only wait for an answer that does not come.
_CUT = frozenset(["copy_broken_off"])
_ENDED_HERE = _CUT | {CLOSED_BY_BORROWER}

# SQLSTATEs of a server that ends its sessions (admin shutdown, crash, not accepting connections).
_SERVER_GONE = frozenset(("57P01", "57P02", "57P03"))
# ...and of one that ends a single session, for idling in a transaction or at all, or for a long transaction.
_OVERSTAYED = frozenset(("25P03", "25P04", "57P05"))
_READ_ONLY = "25006"


_PARTING = {Status.IDLE: 0, Status.IN_USE: 2}
_OPEN, _IDLE, _IN_USE = State.OPEN, Status.IDLE, Status.IN_USE  # looked up for every request


class Circulation(Books):
    """The moves of connections between borrowers, shelf and server."""

    def __init__(self, config: PoolConfig, connector: Connector, listener: Listener) -> None:
        super().__init__(config, listener)
        self.connector = connector
        self.opener = Opener(
            connector,
            self.jobs,
            wanted=self._wanted,
            opened=self._opened,
            failed=self._open_failed,
        )

    # -- borrowing ---------------------------------------------------------------------------------

    def lend_idle(self) -> PooledConnection | None:
        """The connection returned last, if it can be lent as it is and nobody waits. Needs an idle one."""
        if self.queue.length or self.suspended or self.state is not _OPEN:
            return None
        pooled = self.idle[-1]
        now = monotonic()
        heard_of_at = pooled.heard_of_at
        if (
            now - heard_of_at > self.validate_after
            or heard_of_at <= self.suspect_since
            or pooled.retire_reason is not None
            or pooled.connection.is_closed()
        ):
            return None
        if now - pooled.idle_since > _UNREAD_AFTER and pooled.has_unread():
            return None
        self.idle.pop()
        pooled.status = _IN_USE
        pooled.borrowed_at = now
        self.tally.lent_at_once += 1
        return pooled

    def line_up(self, timeout: float | None) -> Waiter:
        """A place in the queue, which brings a connection or PoolTimeout, PoolSaturated, PoolUnavailable.

        Raises PoolSaturated, PoolUnavailable or PoolClosing at once when waiting is no use.
        """
        config = self.config
        budget = config.acquire_timeout if timeout is None else timeout
        now = monotonic()
        queue = self.queue
        if self.state is not _OPEN or not self.members or budget <= 0:
            self._refuse_the_hopeless(budget)
        if now > queue.calm_until or queue.length >= config.max_waiting or budget < queue.target:
            objection = queue.objection(now, self.lanes, budget, config.max_waiting)
            if objection is not None and self.stands(objection):
                raise self.saturated(objection)
        waiter = queue.join(now, budget)
        if self.idle or len(self.members) < config.max_size:
            self.pump()
        return waiter

    async def replace(
        self, dead: PooledConnection, lease: Lease, timeout: float | None = None
    ) -> PooledConnection:
        """Another connection for a lease whose own had ended before it was used: the next one that is free,
        for its borrower has had its turn. Waits for `timeout` seconds, `acquire_timeout` at most.

        Raises PoolError, InterfaceError if the lease was returned meanwhile, and what `setup` raises.
        """
        self._bury(dead)
        if self.state not in {State.OPEN, State.DRAINING}:
            raise self.closed_to_all()
        if self.opener.failing and not self.members:
            raise self.unavailable()
        longest = self.config.acquire_timeout
        budget = longest if timeout is None else min(longest, timeout)
        waiter = self.queue.join(monotonic(), budget, first=True)
        self.pump()
        try:
            fresh = await waiter
        except BaseException:
            self.give_up(waiter)
            raise
        if lease.has_ended:
            self.take_back(fresh)
            raise asyncpg.InterfaceError("the connection has been released back to the pool")
        fresh.task, fresh.place, fresh.caller = dead.task, dead.place, dead.caller
        if self.holders.get(dead.task) is dead:
            self.holders[dead.task] = fresh
        self.tally.use.observe(monotonic() - dead.borrowed_at)
        lease.move_to(fresh)
        if self.has_setup:
            await self.set_up(lease, fresh, monotonic(), None)
        return fresh

    def try_shed(self, budget: float, ahead: int) -> float | None:
        """Count somebody who arrives now as turned away, if he would be; seconds after which to retry."""
        now = monotonic()
        objection = self.queue.objection(now, self.lanes, budget, self.config.max_waiting, ahead=ahead)
        if objection is None or not self.stands(objection, ahead):
            return None
        self.tally.shed[objection] += 1
        return self.queue.expected_wait(now, self.lanes)

    def give_up(self, waiter: Waiter) -> None:
        """The borrower has stopped waiting: cancelled, timed out or refused."""
        handed_over = self.queue.leave(waiter)
        if handed_over is not None:
            self.offer(handed_over)
        self.note_progress()

    def _refuse_the_hopeless(self, budget: float) -> None:
        """Raise at once what a borrower would only learn later."""
        if self.state is not _OPEN:
            raise self.closed_to_all()
        if self.opener.failing and not self.members:
            self.opener.pump()
            raise self.unavailable()
        if budget <= 0:
            raise self.timed_out(stalled=False)

    async def set_up(
        self, lease: Lease, pooled: PooledConnection, asked_at: float, timeout: float | None
    ) -> None:
        """Run the `setup` hook within what the wait has left of the budget. What it does to the session every
        borrower gets alike, so it stays."""
        assert self.config.setup is not None
        budget = self.config.acquire_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(asked_at + budget - monotonic()):
                await self.config.setup(lease)
            driver.check_transaction_ended(pooled.connection, "setup")
        except BaseException:
            pooled.retire("setup_failed")  # nobody knows what state it is in
            lease.end()
            raise
        pooled.forget_borrower()

    # -- returning ---------------------------------------------------------------------------------

    def take_back(self, pooled: PooledConnection) -> None:
        """End a lease. Costs no round trip and no wait; what the session needs happens afterwards."""
        now = monotonic()
        self.tally.use.observe(now - pooled.borrowed_at)
        self.holders.pop(pooled.task, None)
        if pooled.overdue:
            self._try(partial(self.leaks.returned_late, pooled, now), pooled)
        pooled.idle_since = now
        at_rest = driver.settle(pooled.connection)
        if not at_rest or pooled.needs_care or pooled.busy or self.resets_every_time:
            self._take_care(pooled)
            pooled.caller = None
        else:
            pooled.caller = None
            self._pass_on(pooled, now)

    def reclaim(self, pooled: PooledConnection) -> None:
        """Take back what was dropped; called by the garbage collector, from any thread."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._take_back_abandoned, pooled, context=Context())

    def _take_back_abandoned(self, pooled: PooledConnection) -> None:
        if pooled.status is _IN_USE:
            self._try(partial(self.leaks.abandoned, pooled, monotonic()), pooled)
        self.take_back(pooled)

    def _take_care(self, pooled: PooledConnection) -> None:
        if pooled.status is Status.CLOSING:  # lost or cut off meanwhile; its place is free already
            return
        for what in driver.left_open(pooled.connection):
            self._try(partial(self.leaks.left_behind, pooled, what), pooled)
        for undo in pooled.undo:
            self._try(undo, pooled)
        reason = self._objection_to(pooled, pooled.idle_since)
        if reason is None and pooled.effect is Effect.RUINOUS:
            reason = "session_spoilt"
        if reason is None and pooled.busy:
            reason = "returned_busy"
        if reason is not None:
            if reason in _CUT:
                pooled.connection.terminate()
            self.discard(pooled, reason)
            return
        pooled.status = Status.RETURNING
        self.jobs.start(self._return(pooled), "return", partial(self._cut, pooled, "broken_off"))

    def _try(self, step: Callable[[], None], pooled: PooledConnection) -> None:
        """Do what belongs to a return; if it fails the connection is closed, and its place is free."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a borrower's callback may be compared, and do anything
            self.report("warning", "return_failed", about=pooled, error=error)
            pooled.retire("return_failed")

    async def _return(self, pooled: PooledConnection) -> None:
        config = self.config
        connection = pooled.connection
        try:
            was_reset, answered = await returning.make_fit(
                connection,
                effect=Effect.NONE if config.reset == "never" else pooled.effect,
                loose=pooled.loose,
                hook=config.reset_hook,
                resets=config.reset == "always",
            )
            if was_reset:
                self.tally.resets += 1
                if config.reset_hook is None:  # which may have left alone what `init` did
                    await self.connector.greet(connection)
            if pooled.doubts_writable and self.read_only_since is None:
                self._note_role(pooled, await self.connector.ask(connection, returning.STEP_BOUND))
        except Exception as error:  # noqa: BLE001 - whatever it is, this session is not lent again
            silent = isinstance(error, TimeoutError)
            if connection.is_closed() and not silent:
                self.discard(pooled, "lost")  # which is no news: the server has ended it
                return
            self.report("warning", "return_failed", about=pooled, error=error)
            if silent:
                connection.terminate()  # nor would it answer a goodbye
            self.discard(pooled, "return_failed")
            return
        pooled.forget_borrower()
        now = monotonic()
        if answered:
            pooled.heard_of_at = now
        self.offer(pooled, now)

    def note_failure(self, pooled: PooledConnection, error: BaseException) -> None:
        """Learn from what a borrower's call raised."""
        if getattr(error, "severity", None) is None:
            # Not the server's answer: broken off by a cancel or a timeout, or an error on this side. Whether
            # the session can go on is tried before anybody else gets it. That also ends the transaction in
            # which a statement has been prepared that was not run after all.
            pooled.loosened()
            driver.drop_cancel_once_answered(pooled.connection)
        code = sqlstate_of(error) or ""
        if code in _SERVER_GONE or code.startswith("08"):
            if not (pooled.connection.is_closed() or is_fatal(error)):
                # Of another server (dblink, a foreign table), of a pooler, or RAISEd: this session goes on.
                pooled.loosened()
                return
            pooled.retire("server_gone")
            if pooled.retire_reason not in _ENDED_HERE:
                pooled.sqlstate = code
                self.suspect_all("server_gone", about=pooled, error=error)
        elif code == _READ_ONLY and self.connector.asks_for_writable:
            pooled.refused_to_write()
        elif isinstance(error, asyncpg.OutdatedSchemaCacheError):
            self.schema_changed(pooled, error)

    def schema_changed(self, pooled: PooledConnection, error: Exception | None = None) -> None:
        """Something that the connection had cached is no longer true. The first to find out begins a new
        generation: every connection forgets what it has cached, those in use too, and renews it before it is
        lent again. What is reported of the old one is no news."""
        if pooled.generation != self.generation:
            driver.forget_caches(pooled.connection)
            pooled.generation = self.generation
            return
        self.generation += 1
        pooled.generation = self.generation
        self.report("info", "schema_changed", about=pooled, error=error, generation=self.generation)
        for member in self.members:
            driver.forget_caches(member.connection)
            if not member.busy:  # else a statement is under way that knows the old one
                member.generation = self.generation
            member.grow_old()
        for idle in tuple(self.idle):
            self.probe(idle)

    # -- a connection is free ----------------------------------------------------------------------

    def offer(self, pooled: PooledConnection, now: float | None = None) -> None:
        """To the head of the queue, or else to the idle ones; out, if its time has come."""
        now = monotonic() if now is None else now
        reason = self._objection_to(pooled, now)
        if reason is not None:
            self.discard(pooled, reason)
        elif pooled.outdated:
            self._check(pooled)
        else:
            self._pass_on(pooled, now)

    def _pass_on(self, pooled: PooledConnection, now: float) -> None:
        if self.queue.length and not self.suspended:
            heard_of_at = pooled.heard_of_at
            if now - heard_of_at > self.validate_after or heard_of_at <= self.suspect_since:
                self._check(pooled)
                return
            pooled.status = _IN_USE
            pooled.borrowed_at = now
            if self.queue.hand_out(pooled, now):
                return
        if self.state is not _OPEN:
            self.discard(pooled, "pool_closing")
            return
        pooled.status = _IDLE
        idle = self.idle
        if not idle or idle[-1].idle_since <= pooled.idle_since:
            idle.append(pooled)
        else:  # it was checked, not used: back to its place among the cold ones
            insort(idle, pooled, key=attrgetter("idle_since"))

    def pump(self) -> None:
        """Bring waiters and idle connections together; open what is missing."""
        now = monotonic()
        for _ in range(len(self.idle)):  # no longer: a cancelled waiter counts until it has left
            if self.suspended or self.queue.length <= len(self.checking):
                break
            pooled = self.idle.pop()
            if self._is_fresh(pooled, now) or self._objection_to(pooled, now):
                self.offer(pooled, now)
            else:
                self._check(pooled)
        self.opener.pump()

    def _check(self, pooled: PooledConnection) -> None:
        pooled.status = Status.CHECKING
        self.checking.add(pooled)
        self.jobs.start(self._ping(pooled), "check", partial(self._cut, pooled, "broken_off"))

    def probe(self, pooled: PooledConnection) -> None:
        """Check an idle connection for its own sake."""
        self.idle.remove(pooled)
        self._check(pooled)

    async def _ping(self, pooled: PooledConnection) -> None:
        assert self.loop is not None
        hedge = self.loop.call_later(_CHECK_PATIENCE, self._lose_patience, pooled)
        try:
            as_asked_for = await self._ask(pooled)
        except Exception as error:  # noqa: BLE001 - whatever it is, this session is not lent again
            self.checking.discard(pooled)
            self.suspect_all("failed_check", about=pooled, error=error)
            pooled.connection.terminate()  # a goodbye would wait for the same silent server
            self.discard(pooled, "failed_check")
        else:
            self.checking.discard(pooled)
            pooled.heard_of_at = now = monotonic()
            self._note_role(pooled, as_asked_for)
            if self.last_error is not None and fault_of(self.last_error).absent:
                self.opener.hasten()
            self.offer(pooled, now)  # fresh at this instant, however short `validate_after` is
        finally:
            hedge.cancel()

    async def _ask(self, pooled: PooledConnection) -> bool:
        """See that the session answers, and renew what it has cached if that is old, with `init`'s codecs.
        Whether the server is still what the pool asks for."""
        if pooled.outdated:
            generation = self.generation
            await returning.renew_caches(pooled.connection)
            await self.connector.greet(pooled.connection)
            pooled.generation = generation
            pooled.outdated = pooled.needs_care = generation != self.generation
        return await self.connector.ask(pooled.connection, _CHECK_BOUND)

    def _lose_patience(self, pooled: PooledConnection) -> None:
        self.checking.discard(pooled)
        self.pump()

    def _is_fresh(self, pooled: PooledConnection, now: float) -> bool:
        """Heard of recently enough to be lent unchecked."""
        heard_of_at = pooled.heard_of_at
        return (
            now - heard_of_at <= self.validate_after
            and heard_of_at > self.suspect_since
            and not pooled.has_unread()
        )

    def _objection_to(self, pooled: PooledConnection, now: float) -> str | None:
        """Why the connection must not be lent again, or None."""
        if pooled.retire_reason is not None:
            return pooled.retire_reason
        if pooled.connection.is_closed():
            return "lost"
        return "lifetime" if now >= pooled.expires_at and self.read_only_since is None else None

    # -- a server that takes no writes ---------------------------------------------------------------

    def _note_role(self, pooled: PooledConnection, as_asked_for: bool) -> None:
        """Learn whether the server still takes writes, on a pool that asks for that.

        If not, a server that does is looked for: attempts at a new connection, one at a time and ever more
        rarely, each of which asks. Those that stand go on reading until one succeeds, then all are replaced.
        """
        if as_asked_for or self.read_only_since is not None:
            return
        self.read_only_since = monotonic()
        self.report("warning", "server_read_only", about=pooled)
        self.make_room_to_look()
        self.pump()

    def make_room_to_look(self) -> None:
        """Part with one connection if the attempts to find a writable server need its place."""
        looking = self.read_only_since is not None and self.state is _OPEN
        coming = self.closing or self.opener.under_way
        if not looking or coming or self.sessions < self.config.max_size:
            return
        if self.idle or not any(pooled.retire_reason for pooled in self.members):
            self.retire(self.coldest()[:1], "read_only")

    # -- opening and closing -----------------------------------------------------------------------

    def _wanted(self) -> int:
        """How many more connections to open now; the opener decides how many at once."""
        if self.state in {State.NEW, State.CLOSED}:
            return 0
        coming = self.opener.under_way
        waiting = 0 if self.suspended else self.queue.length - len(self.checking) - coming
        missing = max(self.config.min_size, self.first_size) if self.state is State.OPEN else 0
        if self.opener.failing:
            missing = max(missing, 1)  # somebody has to find out when the server is back
        if self.read_only_since is not None and self.state is State.OPEN:
            missing = max(missing, len(self.members) + 1)
        missing -= len(self.members) + coming
        return min(max(waiting, missing), self.config.max_size - self.sessions)

    def _opened(self, connection: asyncpg.Connection, seconds: float) -> None:
        self.tally.opened += 1
        self.tally.create.observe(seconds)
        self.last_error = None
        if self.read_only_since is not None:  # this one was asked, and takes writes
            self.read_only_since = None
            self.expire("read_only")
        now = monotonic()
        pooled = PooledConnection(connection, now, now + self._lifetime(), self.generation)
        self.members.add(pooled)
        if len(self.members) >= self.first_size:
            self.first_size = 0
        connection.add_termination_listener(partial(self._lost, pooled))
        self.report("debug", "connection_opened", about=pooled, seconds=seconds)
        if self.surplus():  # the maximum was higher when the attempt began
            pooled.retire("resized")
        self.offer(pooled, now)

    def _lifetime(self) -> float:
        if not self.config.max_lifetime:
            return float("inf")
        return self.config.max_lifetime * (1 - random.uniform(0, _LIFETIME_JITTER))  # noqa: S311

    def _open_failed(self, error: Exception) -> None:
        self.tally.open_failures += 1
        fault, before, self.last_error = fault_of(error), self.last_error, error
        blocked = stays(error) and (before is None or fault_of(before) is not fault)
        news = (
            not is_same(error, before) and not blocked
        )  # an outage is one piece of news, not one every attempt
        retry_in = self.opener.retry_in(monotonic())
        level: Level = "warning" if news else "debug"
        self.report(level, "open_failed", error=error, fault=fault.name, retry_in=retry_in)
        if blocked:
            self.report(
                "error", "open_blocked", error=error, fault=fault.name, retry_in=retry_in, advice=fault.advice
            )
        if not self.members:
            # Nobody is left who could serve them, and the next attempt may fail as well.
            self.refuse_queue(self.unavailable)
        self.note_progress()

    def _lost(self, pooled: PooledConnection, _: object) -> None:
        """The driver says the session is gone."""
        if pooled.status is Status.CLOSING:
            return
        pooled.retire("lost")
        if pooled.status in {_IDLE, _IN_USE}:  # else the job that uses it notices
            self._bury(pooled)
        else:
            self._suspect_others(pooled)

    def _bury(self, dead: PooledConnection) -> None:
        """Take leave of one whose session has ended."""
        self._suspect_others(dead)
        reason = dead.retire_reason
        self.discard(dead, reason if reason in _ENDED_HERE else "lost")

    def _suspect_others(self, dead: PooledConnection) -> None:
        """Suspect the others, unless the end of this one says nothing about them: it was closed on this side,
        or the server has ended it alone, and had a call to say so to."""
        dead.sqlstate = dead.sqlstate or driver.last_words(dead.connection)
        if dead.retire_reason not in _ENDED_HERE and dead.sqlstate not in _OVERSTAYED:
            self.suspect_all("connection_lost", about=dead)

    def discard(self, pooled: PooledConnection, reason: str) -> None:
        """Close a connection, and open another in its place if one is wanted."""
        if pooled.status is Status.CLOSING:
            return
        if pooled.status is _IDLE and pooled in self.idle:
            self.idle.remove(pooled)
        pooled.status = Status.CLOSING
        self.members.discard(pooled)
        self.closing.add(pooled)
        self.tally.closed[reason] += 1
        gone = partial(self._gone, pooled, reason)
        if not pooled.connection.is_closed():
            self.jobs.start(self._close(pooled, reason), "close", gone)
        elif self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon(
                gone, context=Context()
            )  # not now: whoever discards may be in the middle of something

    async def _close(self, pooled: PooledConnection, reason: str) -> None:
        try:
            await pooled.connection.close(timeout=CLOSE_BOUND)
        except Exception:  # noqa: BLE001 - there is nothing more to do for it than to cut it
            pooled.connection.terminate()
        self._gone(pooled, reason)

    def cut_off(self) -> None:
        """Cut every connection; nobody need wait for anything. Works without a running loop, too."""
        for pooled in (*self.members, *self.closing):
            driver.cut(pooled.connection)
            self.discard(pooled, "cut_off")
        for pooled in tuple(self.closing):
            self._gone(pooled, "cut_off")

    def _cut(self, pooled: PooledConnection, reason: str) -> None:
        """The job that had the connection was broken off: nobody knows what state the session is in."""
        self.checking.discard(pooled)
        if pooled.status is not Status.CLOSING:
            pooled.connection.terminate()
            self.discard(pooled, reason)

    def _gone(self, pooled: PooledConnection, reason: str) -> None:
        """Its place is free. Cuts the connection if its goodbye was broken off."""
        if pooled not in self.closing:
            return
        self.closing.discard(pooled)
        if not pooled.connection.is_closed():
            pooled.connection.terminate()
        age = monotonic() - pooled.opened_at
        self.report("debug", "connection_closed", about=pooled, reason=reason, age=age)
        self.pump()
        self.note_progress()

    def note_progress(self) -> None:
        """While draining: part with what nobody waits for, and notice when nothing is left."""
        if self.state is not State.DRAINING or self.queue.length:
            return
        for pooled in tuple(self.idle):
            self.discard(pooled, "pool_closing")
        if not (self.members or self.closing):
            self.settled.set()

    def suspect_all(self, why: str, *, about: PooledConnection, error: BaseException | None = None) -> None:
        """Have every connection not heard of since now checked before it is lent again; `about` is the one
        that gave cause."""

        def tell() -> None:
            self.report("info", "connections_suspect", why=why, about=about, error=error)

        now = monotonic()
        if now - self.suspect_since > _SAME_INCIDENT:
            if error is None and about.busy and self.loop is not None:
                self.loop.call_soon(tell)  # its borrower's call is about to raise what the server said
            else:
                tell()
        self.suspect_since = now

    def expire(self, why: str) -> None:
        """Replace every connection opened until now: idle ones at once, the rest when they come back."""
        self.report("info", "connections_expired", why=why)
        self.retire(tuple(self.members), "expired")

    def coldest(self) -> list[PooledConnection]:
        """Who is not on its way out already, in the order in which to part with them: idle ones, longest idle
        first; those in use last."""
        staying = [pooled for pooled in self.members if pooled.retire_reason is None]
        staying.sort(key=lambda pooled: (_PARTING.get(pooled.status, 1), pooled.idle_since))
        return staying

    def surplus(self) -> list[PooledConnection]:
        """Those to part with for there to be no more than the maximum."""
        staying = self.coldest()
        return staying[: max(len(staying) - self.config.max_size, 0)]

    def retire(self, members: Iterable[PooledConnection], reason: str) -> None:
        """Close these: idle ones at once, the rest when they come back."""
        for pooled in members:
            pooled.retire(reason)
            if pooled.status is _IDLE:
                self.discard(pooled, reason)
