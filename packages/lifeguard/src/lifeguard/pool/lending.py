"""Who gets which connection, and when. Decisions only: what takes time is a task.

opening -> idle <-> in use -> returning -> idle        and from anywhere -> closing -> gone
                <-> checking
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from contextvars import Context
from functools import partial
from operator import attrgetter
from time import monotonic

from lifeguard.pool import driver
from lifeguard.pool.closer import Closer
from lifeguard.pool.config import PoolConfig
from lifeguard.pool.connection import COPY_BROKEN_OFF, PooledConnection, Status
from lifeguard.pool.connector import Connector
from lifeguard.pool.driver import settle
from lifeguard.pool.effects import Effect
from lifeguard.pool.events import Listener, Reporter
from lifeguard.pool.faults import fault_of
from lifeguard.pool.lane_lending import LaneLending
from lifeguard.pool.leaks import LeakWatch
from lifeguard.pool.names import Place
from lifeguard.pool.opener import Opener
from lifeguard.pool.queue import Waiter, WaitQueue
from lifeguard.pool.state import Phase, PoolState
from lifeguard.pool.tasks import CheckConnection, CleanConnection, Tasks

# Seconds. Idle for longer than a turn of a busy event loop: the server may have ended the session meanwhile,
# and the loop not have read it. To ask the kernel costs less than a microsecond.
_UNREAD_AFTER = 0.001

_OPEN, _IDLE, _IN_USE = Phase.OPEN, Status.IDLE, Status.IN_USE  # looked up for every request


class Lending:
    """Moves connections between borrowers and the pool."""

    def __init__(self, config: PoolConfig, connector: Connector, listener: Listener) -> None:
        self.state = state = PoolState(config)
        self.connector = connector
        self.report = Reporter(listener, state.stats)
        self.tasks = Tasks(f"pool {config.name}")
        self.leaks = LeakWatch(state, self.report)
        self.lanes = LaneLending(state, self.report, dispatch=self.pump, refuse=self._refuse_the_hopeless)
        self.closer = Closer(state, self.tasks, self.report, when_closed=self.pump)
        self.opener = Opener(state, connector, self.tasks, self.closer, self.report, when_opened=self.offer)

    # -- borrowing ---------------------------------------------------------------------------------

    def lend_idle(self, place: Place | None) -> PooledConnection | None:
        """The connection returned last, if it can be lent as it is and none waits; in a pool with lanes, if
        the lane may have it. Needs an idle one."""
        state = self.state
        if state.suspended or state.phase is not _OPEN:
            return None
        only = state.only_place
        in_lane = place is not only and (state.has_lanes or (place != only and not self.lanes.is_only(place)))
        if state.queue.length and not in_lane:
            return None
        pooled = state.idle[-1]
        now = monotonic()
        heard_of_at = pooled.heard_of_at
        if (
            now - heard_of_at > state.validate_after
            or heard_of_at <= state.suspect_since
            or pooled.retire_reason is not None
            or pooled.connection.is_closed()
        ):
            return None
        if now - pooled.idle_since > _UNREAD_AFTER and pooled.has_unread():
            return None
        if in_lane and not self.lanes.lend(pooled, place, now):
            return None
        state.idle.pop()
        pooled.status = _IN_USE
        pooled.borrowed_at = now
        state.tally.lent_at_once += 1
        return pooled

    def _is_in_lane(self, place: Place | None) -> bool:
        """Whether there is more than one, so that it matters where it borrows."""
        state = self.state
        return place != state.only_place and (state.has_lanes or not self.lanes.is_only(place))

    def line_up(self, timeout: float | None, place: Place | None) -> tuple[WaitQueue, Waiter]:
        """A queue and a waiter in it, which gets a connection or PoolTimeout, PoolSaturated, PoolUnavailable.

        Raises PoolSaturated, PoolUnavailable or PoolClosing at once when waiting is no use.
        """
        state = self.state
        only = state.only_place
        if place is not only and (state.has_lanes or (place != only and not self.lanes.is_only(place))):
            return self.lanes.line_up(timeout, place)
        budget = state.acquire_timeout if timeout is None else timeout
        now = monotonic()
        if state.phase is not _OPEN or not state.members or budget <= 0:
            self._refuse_the_hopeless(budget)
        queue = state.queue
        if now > queue.calm_until or queue.length >= state.max_waiting or budget < queue.target:
            objection = queue.objection(now, state.serving, budget, state.max_waiting)
            if objection is not None and self._turns_away(objection):
                if place is not None:
                    self.lanes.begin()
                    return self.lanes.line_up(timeout, place)
                raise state.saturated(objection, queue.expected_wait(now, state.serving))
        if place is not None and self.lanes.timer is None:
            self.lanes.watch(now)
        waiter = queue.join(now, budget)
        if state.idle or len(state.members) < state.max_size:
            self.pump()
        return queue, waiter

    def line_up_again(
        self, dead: PooledConnection, timeout: float | None, place: Place | None
    ) -> tuple[WaitQueue, Waiter]:
        """A waiter at the head of the queue, for a borrower whose connection had ended before it was used: it
        has had its turn. It waits for `timeout` seconds, `acquire_timeout` at most.

        Raises PoolError at once when waiting is no use.
        """
        self.closer.take_out(dead)
        state = self.state
        if state.phase not in {Phase.OPEN, Phase.DRAINING}:
            raise state.refusing()
        if self.opener.is_hopeless:
            raise state.unavailable()
        longest = state.config.acquire_timeout
        budget = longest if timeout is None else min(longest, timeout)
        queue = state.queue
        if self._is_in_lane(place):
            queue, waiter = self.lanes.line_up_again(place, budget, monotonic())
        else:
            waiter = queue.join_first(monotonic(), budget)
        self.pump()
        return queue, waiter

    def hand_over(self, dead: PooledConnection, fresh: PooledConnection) -> None:
        """The lease on a connection that has ended goes on with another one."""
        fresh.task, fresh.call_site, fresh.caller = dead.task, dead.call_site, dead.caller
        fresh.place = dead.place
        holders = self.state.holders
        if holders.get(dead.task) is dead:
            holders[dead.task] = fresh
        self.state.note_use(monotonic() - dead.borrowed_at)

    def try_shed(self, budget: float, ahead: int, place: Place | None) -> float | None:
        """Count a borrower that arrives now as turned away, if it would be; seconds after which to retry."""
        state = self.state
        now = monotonic()
        if self._is_in_lane(place):
            return self.lanes.try_shed(place, budget, ahead, now)
        longest = state.config.max_waiting
        objection = state.queue.objection(now, state.serving, budget, longest, ahead=ahead)
        if objection is None or not self._turns_away(objection, ahead):
            return None
        if place is not None:
            self.lanes.begin()
            return self.lanes.try_shed(place, budget, ahead, now)
        state.tally.shed[objection] += 1
        return state.queue.expected_wait(now, state.serving)

    def give_up(self, queue: WaitQueue, waiter: Waiter) -> None:
        """The borrower has stopped waiting: cancelled, timed out or refused."""
        handed_over = queue.leave(waiter)
        if handed_over is not None:
            self.lanes.take_from_the_departed(handed_over)
            self.offer(handed_over)
        self.closer.note_progress()

    def hold(self, why: str | None) -> None:
        """Open none, for this reason if there is one to give; None: open some again."""
        self.state.held = why
        if why is not None:
            self.closer.retire(tuple(self.state.members), "resized")
        if self.opener.is_hopeless:
            self.state.refuse_all(self.state.unavailable)
        self.pump()

    def _refuse_the_hopeless(self, budget: float) -> None:
        """Raise at once what a borrower would only learn later."""
        state = self.state
        if state.phase is not _OPEN:
            raise state.refusing()
        if self.opener.is_hopeless:
            self.opener.pump()
            raise state.unavailable()
        if budget <= 0:
            raise state.timed_out(stalled=False)

    def _turns_away(self, objection: str, ahead: int = 0) -> bool:
        """Whether to turn a newcomer away for it. A full queue is no reason as long as there are connections
        that need not be returned first: idle ones, those being checked, those that can be opened."""
        state = self.state
        if objection != "queue_full" or state.suspended:
            return True
        return state.queue.length + ahead >= state.config.max_waiting + state.not_to_be_returned

    @property
    def waits_out_outage(self) -> bool:
        """There is no connection, and borrowers wait for an attempt to open one."""
        return (self.opener.failing or bool(self.state.opening)) and self.opener.waits_out_outage

    # -- returning ---------------------------------------------------------------------------------

    def take_back(self, pooled: PooledConnection) -> None:
        """End a lease. Costs no round trip and no wait; what the session needs happens afterwards."""
        state = self.state
        now = monotonic()
        state.note_use(now - pooled.borrowed_at)
        state.holders.pop(pooled.task, None)
        if pooled.overdue:
            self._try(partial(self.leaks.returned_late, pooled, now), pooled)
        pooled.idle_since = now
        if not settle(pooled.connection) or pooled.needs_care or pooled.busy or state.resets_every_time:
            if state.has_lanes:
                self.lanes.give_back(pooled, now)
            self._take_care(pooled)
            pooled.caller = None
        else:
            pooled.caller = None
            heard_of_at = pooled.heard_of_at
            if (
                state.total.waiting
                and now - heard_of_at <= state.validate_after
                and heard_of_at > state.suspect_since
                and not state.suspended
            ):
                queue = state.lanes.exchange(pooled, now) if state.has_lanes else state.queue
                if queue is not None:
                    pooled.borrowed_at = now
                    if queue.hand_out(pooled, now):
                        return
                    self.lanes.take_from_the_departed(pooled)
            if state.has_lanes:
                self.lanes.give_back(pooled, now)
            self._pass_on(pooled, now)
        if state.has_lanes and now >= state.lanes.tick_at:
            self.lanes.tick(now)

    def reclaim(self, pooled: PooledConnection) -> None:
        """Take back what was dropped; called by the garbage collector, from any thread."""
        loop = self.state.loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._take_back_abandoned, pooled, context=Context())

    def _take_back_abandoned(self, pooled: PooledConnection) -> None:
        if pooled.status is _IN_USE:
            self._try(partial(self.leaks.abandoned, pooled, monotonic()), pooled)
        self.take_back(pooled)

    def _take_care(self, pooled: PooledConnection) -> None:
        if pooled.status is Status.CLOSING:  # lost or cut off meanwhile, and counted as such
            return
        for what in driver.left_open(pooled.connection):
            self._try(partial(self.leaks.left_behind, pooled, what), pooled)
        for undo in pooled.undo:
            self._try(undo, pooled)
        reason = self.closer.objection_to(pooled, pooled.idle_since)
        if reason is None and pooled.effect is Effect.RUINOUS:
            reason = "session_spoilt"
        if reason is None and pooled.busy:
            reason = "returned_busy"
        if reason is not None:
            if reason == COPY_BROKEN_OFF:
                pooled.connection.terminate()  # it could only wait for an answer that does not come
            self.closer.discard(pooled, reason)
            return
        pooled.status = Status.RETURNING
        self.tasks.start(CleanConnection(pooled, self.state, self.connector, self))

    def _try(self, step: Callable[[], None], pooled: PooledConnection) -> None:
        """Do what belongs to a return; if it fails the connection is closed."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a borrower's callback may be compared, and do anything
            self.report("warning", "return_failed", about=pooled, error=error)
            pooled.retire("return_failed")

    def cleaned(self, pooled: PooledConnection, *, answered: bool, as_asked_for: bool) -> None:
        """A returned session is fit for the next borrower."""
        self._note_role(pooled, as_asked_for=as_asked_for)
        pooled.forget_borrower()
        now = monotonic()
        if answered:
            pooled.heard_of_at = now
        self.offer(pooled, now)

    def cleaning_failed(self, pooled: PooledConnection, error: Exception) -> None:
        silent = isinstance(error, TimeoutError)
        if pooled.connection.is_closed() and not silent:
            self.closer.discard(pooled, "lost")  # the server has ended it, which was reported
            return
        self.report("warning", "return_failed", about=pooled, error=error)
        if silent:
            pooled.connection.terminate()  # nor would it answer a goodbye
        self.closer.discard(pooled, "return_failed")

    # -- a connection is free ----------------------------------------------------------------------

    def offer(self, pooled: PooledConnection, now: float | None = None) -> None:
        """Give it to the head of the queue, or else to the idle ones; close it if it must not be lent."""
        now = monotonic() if now is None else now
        reason = self.closer.objection_to(pooled, now)
        if reason is not None:
            self.closer.discard(pooled, reason)
        elif pooled.outdated:
            self._check(pooled)
        else:
            self._pass_on(pooled, now)

    def _pass_on(self, pooled: PooledConnection, now: float) -> None:
        state = self.state
        if state.total.waiting and not state.suspended:
            heard_of_at = pooled.heard_of_at
            if now - heard_of_at <= state.validate_after and heard_of_at > state.suspect_since:
                pooled.status = _IN_USE
                pooled.borrowed_at = now
                if self.lanes.hand_out(pooled, now) if state.has_lanes else state.queue.hand_out(pooled, now):
                    return
            elif not state.has_lanes or state.lanes.next_turn() is not None:
                self._check(pooled)
                return
        if state.phase is not _OPEN:
            self.closer.discard(pooled, "pool_closing")
            return
        pooled.status = _IDLE
        idle = state.idle
        if not idle or idle[-1].idle_since <= pooled.idle_since:
            idle.append(pooled)
        else:  # it was checked, not used: back among the cold ones
            insort(idle, pooled, key=attrgetter("idle_since"))

    def pump(self) -> None:
        """Bring waiters and idle connections together; open what is missing."""
        state = self.state
        now = monotonic()
        for _ in range(len(state.idle)):  # not for ever: a cancelled waiter counts until it has left
            if state.wanting <= len(state.checking):
                break
            pooled = state.idle.pop()
            if self._is_fresh(pooled, now) or self.closer.objection_to(pooled, now):
                self.offer(pooled, now)
            else:
                self._check(pooled)
        self.opener.pump()

    def _is_fresh(self, pooled: PooledConnection, now: float) -> bool:
        """Heard of recently enough to be lent unchecked."""
        heard_of_at, state = pooled.heard_of_at, self.state
        is_known_fresh = now - heard_of_at <= state.validate_after and heard_of_at > state.suspect_since
        return is_known_fresh and not pooled.has_unread()

    # -- checks ------------------------------------------------------------------------------------

    def probe(self, pooled: PooledConnection) -> None:
        """Check an idle connection for its own sake."""
        self.state.idle.remove(pooled)
        self._check(pooled)

    def _check(self, pooled: PooledConnection) -> None:
        pooled.status = Status.CHECKING
        self.state.checking.add(pooled)
        self.tasks.start(CheckConnection(pooled, self.state, self.connector, self))

    def check_is_late(self, pooled: PooledConnection) -> None:
        """It may never answer: do something else for the waiter."""
        self.state.checking.discard(pooled)
        self.pump()

    def check_failed(self, pooled: PooledConnection, error: Exception) -> None:
        self.state.checking.discard(pooled)
        self.closer.suspect_all("failed_check", about=pooled, error=error)
        pooled.connection.terminate()  # a goodbye would wait for the same silent server
        self.closer.discard(pooled, "failed_check")

    def check_answered(self, pooled: PooledConnection, *, as_asked_for: bool) -> None:
        state = self.state
        state.checking.discard(pooled)
        pooled.heard_of_at = now = monotonic()
        self._note_role(pooled, as_asked_for=as_asked_for)
        if state.last_error is not None and fault_of(state.last_error).absent:
            self.opener.hasten()
        self.offer(pooled, now)  # fresh at this instant, however short `validate_after` is

    def broken_off(self, pooled: PooledConnection) -> None:
        """The task that checked or cleaned it was cancelled."""
        self.closer.broken_off(pooled)

    def _note_role(self, pooled: PooledConnection, *, as_asked_for: bool) -> None:
        """Learn whether the server still takes writes, on a pool that asks for that."""
        if as_asked_for or self.state.read_only_since is not None:
            return
        self.closer.note_read_only(pooled)
        self.pump()
