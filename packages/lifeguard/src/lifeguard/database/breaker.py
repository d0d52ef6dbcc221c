"""The circuit breaker of one pool: when the database is gone, say so at once and ask it in the background.

pybreaker keeps the states and counts the failures. What it leaves to every caller is kept here:

- admission: no request is ever the probe. Open and half-open refuse all of them; one background task per
  half-open period asks the database.
- what counts: that connections cannot be made. A cancelled caller, a shed one, an error of the application's
  own say nothing.
- suspicion: waits for a connection that used the whole time to wait may as well mean that everybody is
  busy, sessions that were lost that somebody has ended them, attempts that were not answered in time that
  this process was stopped. A lane of which nothing comes back may wait for a lock. All this opens the circuit
  only after the database was asked on a session outside the pool and did not answer either, and nobody was
  served meanwhile.
- patience: seconds count while this process runs, see `lifeguard.database.asking`. While the pool waits an
  outage out (POOL_OUTAGE_PATIENCE) nothing counts: a restart and a switchover open no circuit.
- staleness: a result counts only if nothing has gone wrong, and the circuit has not moved, since its
  caller was admitted. A transaction begun before the trouble proves nothing when it ends in the middle.
- time: the open period doubles with jitter, on the event loop's clock, which is monotonic.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from enum import Enum
from typing import Protocol

import pybreaker
import structlog

from lifeguard.database.asking import Question, answers, is_silence, says_gone
from lifeguard.database.errors import DatabaseUnavailable
from lifeguard.pool import PoolTimeout, PoolUnavailable

# Seconds; the first open period is BREAKER_RESET_TIMEOUT.
LONGEST_OPEN = 10.0
# A probe that has no answer by then has failed.
PROBE_PATIENCE = 2.0
# Between two questions to a server that refuses.
_ASK_AGAIN = 0.2
_log = structlog.get_logger("lifeguard.database.breaker")


class BreakerState(Enum):
    """The value is that of the metric `db_pool_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", "-")


class Clock(Protocol):
    """The part of an event loop that a breaker needs; tests bring their own."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> asyncio.TimerHandle: ...


class Breaker:
    """One circuit.

    ticket = breaker.admit()          raises DatabaseUnavailable unless closed
    breaker.succeeded(ticket)         the server has answered what was admitted
    breaker.failed(ticket, error)     it did not; errors that do not say "gone" are ignored
    breaker.stalled(ticket, error)    it waited for the whole POOL_ACQUIRE_TIMEOUT, in which nobody was served
    breaker.suspect()                 something is wrong, and it may be the database
    breaker.look_now()                there is reason to hope: probe before the open period is over
    """

    def __init__(
        self,
        name: str,
        *,
        fail_max: int,
        reset_timeout: float,
        probe: Callable[[], Awaitable[object]],
        ask_aside: Callable[[], Awaitable[object]],
        on_open: Callable[[], object],
        patience: float = 0.0,
        waits_out: Callable[[], bool] = lambda: False,
        clock: Clock | None = None,
    ) -> None:
        """`probe` asks the database and raises if it does not answer; `ask_aside` does so on a session that
        is none of the pool's; `on_open` turns waiters away. A server that refuses is asked again for
        `patience` seconds, and as long as `waits_out()`."""
        self.name = name
        self._fail_max = fail_max
        self._reset_timeout = reset_timeout
        self._probe = probe
        self._ask_aside = ask_aside
        self._on_open = on_open
        self._patience = patience
        self._waits_out = waits_out
        self._clock = clock
        self._circuit = pybreaker.CircuitBreaker(
            fail_max=fail_max,
            listeners=[_Relay(self)],
            throw_new_error_on_trip=False,
            name=name,
        )
        self._epoch = 0
        self._moved_in = 0
        self._trips = 0
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._probing: asyncio.Task[None] | None = None
        self._suspicions = 0
        """Those in a row, with nobody served between them."""
        self._heard_before = 0
        self.heard = 0
        """How often the server has answered what was admitted."""
        self._checking: asyncio.Task[None] | None = None
        self._stopped = False
        self.state = BreakerState.CLOSED
        self.transitions: Counter[str] = Counter()
        """How often each state was entered, by its label."""

    # -- callers -----------------------------------------------------------------------------------

    def admit(self) -> int:
        """A ticket for one piece of work. Raises DatabaseUnavailable unless the circuit is closed."""
        if self.state is not BreakerState.CLOSED:
            raise DatabaseUnavailable("the circuit breaker is open", retry_after=self.retry_after())
        return self._epoch

    def succeeded(self, ticket: int) -> None:
        self.heard += 1
        if ticket == self._epoch and self._circuit.fail_counter:
            self._settle(_nothing)

    def failed(self, ticket: int, error: BaseException) -> None:
        if ticket < self._moved_in or not says_gone(error):
            return
        if isinstance(error, PoolUnavailable) and not is_silence(error.__cause__):
            self._count_failure()
        else:
            self._suspect()

    def stalled(self, ticket: int, error: PoolTimeout, heard: int) -> None:
        """Count a wait of the whole time to wait as a suspicion, if nobody was served in all that time:
        `heard` is what it was when the wait began."""
        if ticket >= self._moved_in and error.stalled and heard == self.heard:
            self._suspect()

    def cannot_connect(self, *, is_silent: bool = False) -> None:
        """The pool, left without any connection, could not open one either; `is_silent`: in all the time."""
        if is_silent:
            self._suspect()
        else:
            self._count_failure()

    def suspect(self) -> None:
        """Have the database asked at once, and if it does not answer, open."""
        self._suspect(self._fail_max)

    def retry_after(self) -> float:
        """Seconds until the database is asked again; 0 while it is being asked."""
        if self.state is BreakerState.OPEN:
            return max(0.0, self._look_at - self._now().time())
        return 0.0

    def look_now(self) -> None:
        """End the open period early: something suggests that the database is back."""
        if self.state is BreakerState.OPEN:
            self._half_open()

    async def stop(self) -> None:
        """End the timer and the probe; the state stays."""
        self._stopped = True
        self._cancel_timer()
        tasks = {task for task in (self._probing, self._checking) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- the circuit -------------------------------------------------------------------------------

    def entered(self, state: BreakerState) -> None:
        """pybreaker has moved the circuit."""
        before, self.state = self.state, state
        self._epoch += 1
        self._moved_in = self._epoch
        self._suspicions = 0
        self.transitions[state.label] += 1
        self._cancel_timer()
        if state is BreakerState.OPEN:
            self._trips += 1
            period = self._open_period()
            self._look_at = self._now().time() + period
            if not self._stopped:
                self._timer = Context().run(self._now().call_later, period, self._half_open)
        elif state is BreakerState.CLOSED:
            self._trips = 0
        _log.log(
            logging.DEBUG if self._trips > 1 else _LEVELS[state],  # only the first time is news
            "breaker_moved",
            pool=self.name,
            before=before.label,
            now=state.label,
            retry_after=round(self.retry_after(), 3),
        )
        if state is BreakerState.OPEN:
            self._on_open()

    def _count_failure(self) -> None:
        if self.state is BreakerState.CLOSED:
            self._epoch += 1
            self._settle(_fail)

    def _suspect(self, weight: int = 1) -> None:
        """Enough suspicions in a row have the database asked outside the pool."""
        if self.state is not BreakerState.CLOSED:
            return
        self._epoch += 1
        if self._heard_before != self.heard and self._checking is None:
            self._suspicions = 0
        self._heard_before = self.heard
        self._suspicions += weight
        enough = self._suspicions + self._circuit.fail_counter >= self._fail_max
        if enough and self._checking is None and not self._stopped:
            self._checking = asyncio.get_running_loop().create_task(
                self._check(), name=f"breaker {self.name} check", context=Context()
            )

    def _open_period(self) -> float:
        """Doubling from the first one; half of it is drawn, so that replicas do not ask in step."""
        longest = max(LONGEST_OPEN, self._reset_timeout)
        period = min(longest, self._reset_timeout * 2 ** min(self._trips - 1, 30))
        return period if self._trips == 1 else random.uniform(period / 2, period)  # noqa: S311

    def _half_open(self) -> None:
        if self._stopped or self._probing is not None:
            return
        self._circuit.half_open()
        self._probing = asyncio.get_running_loop().create_task(
            self._ask(), name=f"breaker {self.name}", context=Context()
        )

    async def _ask(self) -> None:
        try:
            await Question(self._probe, PROBE_PATIENCE).answer()
        except Exception:  # noqa: BLE001 - whatever keeps the probe from an answer
            outcome = _fail
        else:
            outcome = _nothing
        finally:
            self._probing = None
        self._settle(outcome)

    async def _check(self) -> None:
        """Ask outside the pool whether the suspicions are right; if so, let them count."""
        heard = self.heard
        try:
            if await self._is_gone_for_long() and heard == self.heard:
                for _ in range(self._suspicions):
                    self._count_failure()
        finally:
            self._suspicions = 0
            self._checking = None

    async def _is_gone_for_long(self) -> bool:
        """Whether it does not answer. One that refuses may be about to restart."""
        give_up_at = self._now().time() + self._patience
        while self.state is BreakerState.CLOSED:  # else its probe asks
            try:
                await Question(self._ask_aside, PROBE_PATIENCE).answer()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is an answer or none
                if answers(error):
                    return False
                over = is_silence(error) or self._now().time() >= give_up_at
                if over and not self._waits_out():
                    return True
            else:
                return False
            await asyncio.sleep(_ASK_AGAIN)
        return False

    def _settle(self, outcome: Callable[[], None]) -> None:
        """Let pybreaker count a failure or a success.

        A failure is counted by raising. The error itself is not raised again: that would add to its traceback
        and its context, which appear in the log.
        """
        with suppress(_Failed):
            self._circuit.call(outcome)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> Clock:
        return self._clock or asyncio.get_running_loop()


class _Relay(pybreaker.CircuitBreakerListener):
    """Tells a breaker where pybreaker has moved its circuit."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,  # noqa: ARG002
        old_state: pybreaker.CircuitBreakerState | None,  # noqa: ARG002
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._breaker.entered(_STATES[new_state.name])


_STATES = {
    pybreaker.STATE_CLOSED: BreakerState.CLOSED,
    pybreaker.STATE_HALF_OPEN: BreakerState.HALF_OPEN,
    pybreaker.STATE_OPEN: BreakerState.OPEN,
}
_LEVELS = {
    BreakerState.CLOSED: logging.INFO,
    BreakerState.HALF_OPEN: logging.INFO,
    BreakerState.OPEN: logging.WARNING,
}


def _nothing() -> None:
    pass


class _Failed(Exception):
    """What was counted as a failure."""


def _fail() -> None:
    raise _Failed
