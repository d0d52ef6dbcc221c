"""The circuit breaker under a clock of its own: what trips it, who probes, what no longer counts."""

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from typing import cast

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from lifeguard.database import CallScope, DatabaseUnavailable, call_scope
from lifeguard.database.asking import says_gone
from lifeguard.database.breaker import LONGEST_OPEN, PROBE_PATIENCE, Breaker, BreakerState
from lifeguard.pool import PoolSaturated, PoolStats, PoolTimeout, PoolUnavailable
from lifeguard.testing.waiting import eventually
from structlog.testing import capture_logs
from structlog.typing import EventDict

STATS = cast("PoolStats", None)  # the breaker does not look at them
GONE = PoolUnavailable("refused", STATS, retry_after=0.1)
STALLED = PoolTimeout("hangs", STATS, stalled=True)


@pytest.fixture(autouse=True)
def _undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that fails counts and is not asked again because the machine was busy meanwhile, nor is it
    given up: what such times cost is in test_truth.py."""
    monkeypatch.setattr("lifeguard.database.asking._LATE", math.inf)
    monkeypatch.setattr("lifeguard.database.breaker.PROBE_PATIENCE", 3600.0)


class FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """An event loop's clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, FakeTimer]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self.now + delay, next(self._order), timer))
        return cast("asyncio.TimerHandle", timer)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while self._timers and self._timers[0][0] <= self.now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.callback()


class Rig:
    """A breaker, its clock, and a database that answers when told to."""

    def __init__(self, fail_max: int = 5) -> None:
        self.clock = FakeClock()
        self.answers = asyncio.Queue[Exception | None]()
        self.probes = 0
        self.asked_aside = 0
        self.turned_away = 0
        self.breaker = Breaker(
            "primary",
            fail_max=fail_max,
            reset_timeout=1.0,
            probe=self.probe,
            ask_aside=self.ask_aside,
            on_open=self.turn_away,
            clock=self.clock,
        )

    async def probe(self) -> None:
        self.probes += 1
        answer = await self.answers.get()
        if answer is not None:
            raise answer

    async def ask_aside(self) -> None:
        self.asked_aside += 1
        answer = await self.answers.get()
        if answer is not None:
            raise answer

    async def stall(self, times: int) -> None:
        for _ in range(times):
            self.breaker.stalled(self.breaker.admit(), STALLED, self.breaker.heard)
        await asyncio.sleep(0)

    def turn_away(self) -> None:
        self.turned_away += 1

    def state(self) -> BreakerState:
        return self.breaker.state

    def trip(self) -> None:
        while self.breaker.state is BreakerState.CLOSED:
            self.breaker.failed(self.breaker.admit(), GONE)

    async def answer(self, answer: Exception | None) -> None:
        """Let the probe under way end so, and the breaker take note."""
        self.answers.put_nowait(answer)
        for _ in range(10):
            await asyncio.sleep(0)


def admitted(breaker: Breaker) -> bool:
    try:
        breaker.admit()
    except DatabaseUnavailable:
        return False
    return True


class TestTripping:
    async def test_consecutive_failures_open_it_and_turn_waiters_away(self) -> None:
        rig = Rig(fail_max=3)
        for _ in range(2):
            rig.breaker.failed(rig.breaker.admit(), GONE)
        assert rig.state() is BreakerState.CLOSED
        rig.breaker.failed(rig.breaker.admit(), GONE)
        assert rig.state() is BreakerState.OPEN
        assert rig.turned_away == 1
        assert rig.breaker.retry_after() == pytest.approx(1.0)

    async def test_a_success_in_between_starts_the_count_anew(self) -> None:
        rig = Rig(fail_max=2)
        for _ in range(5):
            rig.breaker.failed(rig.breaker.admit(), GONE)
            rig.breaker.succeeded(rig.breaker.admit())
        assert rig.state() is BreakerState.CLOSED

    async def test_a_success_admitted_before_the_last_failure_resets_nothing(self) -> None:
        rig = Rig(fail_max=2)
        begun_before_the_trouble = rig.breaker.admit()
        rig.breaker.failed(rig.breaker.admit(), GONE)
        rig.breaker.succeeded(begun_before_the_trouble)
        rig.breaker.failed(rig.breaker.admit(), GONE)
        assert rig.state() is BreakerState.OPEN

    @pytest.mark.parametrize(
        "error",
        [
            GONE,
            asyncpg.AdminShutdownError("57P01"),
            asyncpg.CrashShutdownError("57P02"),
            asyncpg.CannotConnectNowError("57P03"),
            asyncpg.ConnectionDoesNotExistError("08003"),
            asyncpg.InvalidPasswordError("28P01"),
        ],
        ids=repr,
    )
    def test_says_gone(self, error: Exception) -> None:
        assert says_gone(error)

    @pytest.mark.parametrize(
        "error",
        [
            PoolSaturated("busy", STATS, reason="queue_target", retry_after=0.1),
            STALLED,
            asyncio.CancelledError(),
            asyncpg.UniqueViolationError("23505"),
            asyncpg.QueryCanceledError("57014"),
            asyncpg.TooManyConnectionsError("53300"),
            ValueError("the application's own"),
        ],
        ids=repr,
    )
    async def test_what_does_not_say_gone_never_counts(self, error: BaseException) -> None:
        rig = Rig(fail_max=1)
        rig.breaker.failed(rig.breaker.admit(), error)
        assert rig.state() is BreakerState.CLOSED


class TestStalls:
    """Waits of the whole time to wait: all are busy, or nobody is there."""

    @pytest.mark.parametrize(
        "answer", [None, asyncpg.TooManyConnectionsError("53300"), asyncpg.InvalidCatalogNameError("3D000")]
    )
    async def test_a_server_that_answers_beside_the_pool_keeps_it_closed(
        self, answer: Exception | None
    ) -> None:
        rig = Rig(fail_max=3)
        for asked in range(1, 4):
            await rig.stall(3)
            assert rig.asked_aside == asked
            await rig.answer(answer)
        assert not rig.breaker.transitions

    @pytest.mark.parametrize(
        "answer", [OSError("refused"), asyncpg.CannotConnectNowError("57P03"), TimeoutError("connect")]
    )
    async def test_a_server_that_does_not_answer_there_either_is_gone(self, answer: Exception) -> None:
        rig = Rig(fail_max=3)
        await rig.stall(7)
        assert rig.state() is BreakerState.CLOSED
        assert rig.asked_aside == 1
        await rig.answer(answer)
        assert rig.state() is BreakerState.OPEN
        assert rig.breaker.transitions == {"open": 1}

    async def test_a_question_that_does_not_come_back_is_no_answer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lifeguard.database.breaker.PROBE_PATIENCE", 0.01)
        rig = Rig(fail_max=1)
        await rig.stall(1)
        checking = next(task for task in asyncio.all_tasks() if task.get_name().endswith("check"))
        await asyncio.wait({checking})
        assert rig.state() is BreakerState.OPEN

    async def test_who_is_served_while_it_asks_proves_more_than_no_answer(self) -> None:
        rig = Rig(fail_max=3)
        await rig.stall(3)
        rig.breaker.succeeded(rig.breaker.admit())
        await rig.answer(OSError("refused"))
        assert not rig.breaker.transitions

    async def test_fewer_than_it_takes_ask_nothing(self) -> None:
        rig = Rig(fail_max=3)
        for _ in range(5):
            await rig.stall(2)
            rig.breaker.succeeded(rig.breaker.admit())
        assert rig.asked_aside == 0

    async def test_failures_and_stalls_add_up(self) -> None:
        rig = Rig(fail_max=3)
        rig.breaker.failed(rig.breaker.admit(), GONE)
        await rig.stall(2)
        assert rig.asked_aside == 1
        await rig.answer(OSError("refused"))
        assert rig.state() is BreakerState.OPEN

    async def test_stop_ends_the_question(self) -> None:
        rig = Rig(fail_max=1)
        await rig.stall(1)
        await rig.breaker.stop()
        assert not [task for task in asyncio.all_tasks() if task.get_name().endswith("check")]
        assert rig.state() is BreakerState.CLOSED


@pytest.mark.usefixtures("plain_logging")
class TestWhatIsSaidOfIt:
    async def test_its_timer_its_probe_and_its_question_belong_to_no_request(self) -> None:
        asked_for: list[CallScope | None] = []

        async def ask() -> None:
            asked_for.append(call_scope.get())
            raise OSError("refused")

        breaker = Breaker(
            "primary", fail_max=1, reset_timeout=0.001, probe=ask, ask_aside=ask, on_open=lambda: None
        )
        with capture_logs([merge_call]) as lines:
            token = call_scope.set(CallScope(tag="r1"))
            breaker.stalled(breaker.admit(), STALLED, breaker.heard)
            call_scope.reset(token)
            await eventually(lambda: len(asked_for) >= 4)
            await breaker.stop()
        assert set(asked_for) == {None}
        assert {line["call"] for line in lines} == {None}

    async def test_one_outage_is_one_warning_however_often_it_is_probed(self) -> None:
        rig = Rig()
        with capture_logs() as lines:
            for _ in range(2):
                rig.trip()
                for answer in (GONE, GONE, GONE, None):
                    rig.clock.advance(LONGEST_OPEN)
                    await rig.answer(answer)
        told = [(line["now"], line["log_level"]) for line in lines if line["log_level"] != "debug"]
        assert told == [("open", "warning"), ("half-open", "info"), ("closed", "info")] * 2

    def test_an_error_that_it_counts_is_left_as_it_was(self) -> None:
        """Its traceback and its context are shown to somebody."""
        breaker = Rig(fail_max=2).breaker
        lost = asyncpg.ConnectionDoesNotExistError("08003")
        try:
            int("what somebody was doing")
        except ValueError:
            breaker.failed(0, lost)
        assert (lost.__traceback__, lost.__context__) == (None, None)


def merge_call(_: object, __: str, event: EventDict) -> EventDict:
    return {**event, "call": call_scope.get()}


class TestRecovery:
    async def test_a_thousand_callers_at_the_half_open_instant_send_one_probe_and_none_of_them(self) -> None:
        rig = Rig()
        rig.trip()
        rig.clock.advance(1.0)

        async def call() -> bool:
            return admitted(rig.breaker)

        assert not any(await asyncio.gather(*(call() for _ in range(1000))))
        assert rig.probes == 1
        assert rig.state() is BreakerState.HALF_OPEN
        await rig.answer(None)
        assert rig.state() is BreakerState.CLOSED
        assert admitted(rig.breaker)

    async def test_a_failed_probe_doubles_the_period_up_to_ten_seconds(self) -> None:
        rig = Rig()
        rig.trip()
        expected = 1.0
        rig.clock.advance(expected)
        for _ in range(6):
            await rig.answer(OSError("refused"))
            expected = min(expected * 2, LONGEST_OPEN)
            assert expected / 2 <= rig.breaker.retry_after() <= expected
            rig.clock.advance(expected)
            await asyncio.sleep(0)
        await rig.answer(None)
        rig.trip()
        assert rig.breaker.retry_after() == pytest.approx(1.0)

    async def test_a_probe_that_hangs_has_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lifeguard.database.breaker.PROBE_PATIENCE", 0.01)
        assert PROBE_PATIENCE > 0.01
        rig = Rig()
        rig.trip()
        rig.clock.advance(1.0)
        probing = next(task for task in asyncio.all_tasks() if task.get_name() == "breaker primary")
        await asyncio.wait({probing})
        assert rig.state() is BreakerState.OPEN

    async def test_hope_ends_the_open_period_early(self) -> None:
        rig = Rig()
        rig.trip()
        rig.breaker.look_now()
        assert rig.state() is BreakerState.HALF_OPEN
        await rig.answer(None)
        assert rig.state() is BreakerState.CLOSED
        rig.clock.advance(60)
        assert rig.probes == 1

    async def test_results_from_before_the_trip_do_not_count_after_it(self) -> None:
        rig = Rig(fail_max=1)
        old = rig.breaker.admit()
        rig.trip()
        rig.clock.advance(1.0)
        await asyncio.sleep(0)
        rig.breaker.succeeded(old)
        assert rig.state() is BreakerState.HALF_OPEN
        await rig.answer(None)
        rig.breaker.failed(old, GONE)
        assert rig.state() is BreakerState.CLOSED

    async def test_a_jump_of_the_clock_costs_one_probe(self) -> None:
        rig = Rig()
        rig.trip()
        rig.clock.advance(1_000_000)
        await asyncio.sleep(0)
        assert rig.probes == 1
        await rig.answer(None)

    async def test_stop_ends_the_probe_and_starts_no_other(self) -> None:
        rig = Rig()
        rig.trip()
        rig.clock.advance(1.0)
        await asyncio.sleep(0)
        await rig.breaker.stop()
        rig.clock.advance(1_000)
        assert rig.probes == 1


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Whatever happens in whatever order: nobody is admitted unless it is closed, one probe at a time,
    and once the database answers again the circuit closes."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.rig = self.runner.run(self._make())
        self.tickets: list[int] = []
        self.answered = 0

    async def _make(self) -> Rig:
        return Rig(fail_max=3)

    @property
    def breaker(self) -> Breaker:
        return self.rig.breaker

    @rule()
    def admit(self) -> None:
        if admitted(self.breaker):
            assert self.breaker.state is BreakerState.CLOSED
            self.tickets.append(self.breaker.admit())

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), gone=st.booleans())
    def finish(self, data: st.DataObject, gone: bool) -> None:
        ticket = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        before = self.breaker.state
        if gone:
            self.breaker.failed(ticket, GONE)
        else:
            self.breaker.succeeded(ticket)
        if before is not BreakerState.CLOSED:
            assert self.breaker.state is before

    @rule(seconds=st.floats(0.01, 30))
    def time_passes(self, seconds: float) -> None:
        async def pass_time() -> None:
            self.rig.clock.advance(seconds)
            await asyncio.sleep(0)

        self.runner.run(pass_time())

    @rule()
    def hope(self) -> None:
        async def look() -> None:
            self.breaker.look_now()
            await asyncio.sleep(0)

        self.runner.run(look())

    @precondition(lambda self: self.breaker.state is BreakerState.HALF_OPEN)
    @rule(answers=st.booleans())
    def the_probe_ends(self, answers: bool) -> None:
        self.runner.run(self.rig.answer(None if answers else OSError("refused")))
        self.answered += 1
        expected = BreakerState.CLOSED if answers else BreakerState.OPEN
        assert self.breaker.state is expected

    @invariant()
    def one_probe_at_a_time(self) -> None:
        assert self.rig.probes - self.answered in {0, 1}
        assert (self.rig.probes > self.answered) == (self.breaker.state is BreakerState.HALF_OPEN)

    def teardown(self) -> None:
        if self.breaker.state is BreakerState.OPEN:
            self.time_passes(LONGEST_OPEN)
        if self.breaker.state is BreakerState.HALF_OPEN:
            self.the_probe_ends(answers=True)
        assert self.breaker.state is BreakerState.CLOSED
        self.runner.close()


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
