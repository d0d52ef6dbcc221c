"""Random things done to a real pool on a real server, and what holds after each of them."""

import asyncio
import contextlib
import gc
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

import asyncpg
import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from lifeguard.pool import PRIORITIES, Lease, OutsideLane, Pool, PoolError, PoolUnavailable, Priority
from lifeguard.testing.servers import ADMIN, PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_balanced, assert_counted_right, at_rest, nothing_left

MAX_SIZE = 4
SOON = 5.0  # seconds within which a borrow must work again, whatever has happened
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
LANES = st.sampled_from([None, "a", "b", OutsideLane("c")])
DIRT = [
    "SET my.setting = 'x'",
    "LISTEN channel",
    "SELECT pg_try_advisory_lock(1)",
    "CREATE TEMP TABLE things ()",
]
LEFT_BEHIND = """
SELECT length(coalesce(current_setting('my.setting', true), ''))
  + (SELECT count(*) FROM pg_listening_channels())
  + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
  + (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())
"""

T = TypeVar("T")
_names = itertools.count(1)


@dataclass
class Borrower:
    """A task that waits for a connection, or has one."""

    task: asyncio.Task[Lease]
    patience: float
    asked_at: float


class PoolMachine(RuleBasedStateMachine):
    """One pool, its borrowers, and a superuser's session that looks on and kills.

    A rule leaves the pool as it is, in the middle of things; what it has started goes on during the next.
    Rules have no preconditions, for what is there depends on time: one that needs a lease borrows it.
    """

    dsn: str  # set before it runs

    @initialize(
        min_size=st.integers(0, 2),
        validate_after=st.sampled_from([0.0, 0.005, 1.0]),
        max_lifetime=st.sampled_from([0.0, 0.3]),
        health_check_interval=st.sampled_from([0.0, 0.05]),
        idle_timeout=st.sampled_from([0.0, 0.1]),
    )
    def open(self, **config: float) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.name = f"machine-{next(_names)}"
        self.leases: list[Lease] = []
        self.borrowers: list[Borrower] = []
        self.queries: list[asyncio.Task[Any]] = []
        self.most_allowed = MAX_SIZE
        self.limits: dict[Any, tuple[int, int]] = {}
        """How many a lane may hold, and is promised."""
        self.failed = False
        self.run(self._open(config))

    async def _open(self, config: dict[str, Any]) -> None:
        self.admin = await asyncpg.connect(self.dsn, server_settings={"application_name": ADMIN})
        self.pool = Pool(
            self.dsn,
            max_size=MAX_SIZE,
            name=self.name,
            server_settings={"application_name": self.name},
            on_event=lambda _: None,
            leak_threshold=0.05,
            **config,
        )
        await self.pool.open()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Do it, and let the loop turn a few times: what others have started goes on as well."""

        async def and_turn() -> T:
            result = await asyncio.wait_for(coroutine, 2 * SOON)
            for _ in range(3):
                await asyncio.sleep(0)
            return result

        try:
            return self.runner.run(and_turn())
        except BaseException:
            self.failed = True
            raise

    # -- borrowing ---------------------------------------------------------------------------------

    @rule(
        patience=st.sampled_from([0.0, 0.005, 0.05, SOON]),
        lane=LANES,
        priority=st.sampled_from(PRIORITIES),
    )
    def ask(self, patience: float, lane: Any = None, priority: Priority = "normal") -> None:
        async def start() -> None:
            task = asyncio.create_task(self._acquire(patience, lane, priority))
            self.borrowers.append(Borrower(task, patience, monotonic()))

        self.run(start())
        self._collect()

    async def _acquire(self, patience: float, lane: Any, priority: Priority) -> Lease:
        return await self.pool.acquire(timeout=patience, lane=lane, priority=priority)

    @rule(index=st.integers(0, 100))
    def wait_for_a_borrower(self, index: int) -> None:
        if not self.borrowers:
            return
        borrower = self.borrowers[index % len(self.borrowers)]
        held_up = self.leases or self.pool.stats().suspended  # and nobody but us can help
        if borrower.patience < 1 or not held_up:
            self.run(asyncio.wait_for(asyncio.wait([borrower.task]), SOON + 1))
        self._collect()

    @rule(index=st.integers(0, 100), at_once=st.booleans())
    def cancel_a_borrower(self, index: int, at_once: bool) -> None:
        async def cancel() -> None:
            if self.borrowers:
                self.borrowers[index % len(self.borrowers)].task.cancel()
            if at_once and self.leases:  # a connection comes back before the cancelled task has run
                await self.pool.release(self.leases.pop())

        self.run(cancel())
        self._collect()

    def _collect(self) -> None:
        """Take over what borrowers have got, and check how long the others have waited."""
        for borrower in tuple(self.borrowers):
            if not borrower.task.done():
                if monotonic() < borrower.asked_at + borrower.patience:
                    continue
                self.run(asyncio.wait([borrower.task], timeout=1))  # its timer may ring in the next turn
                assert borrower.task.done(), "a borrower waits a second longer than it wanted to"
            self.borrowers.remove(borrower)
            if borrower.task.cancelled():
                continue
            error = borrower.task.exception()
            if error is None:
                self.leases.append(borrower.task.result())
            else:
                assert isinstance(error, PoolError), repr(error)

    # -- using -------------------------------------------------------------------------------------

    def _use(self, index: int, use: Callable[[Lease], Awaitable[object]]) -> None:
        """Use a lease; that its session has been killed is all that may go wrong."""

        async def guarded(lease: Lease) -> None:
            with contextlib.suppress(*LOST):
                await use(lease)

        if self._has_lease():
            self.run(guarded(self.leases[index % len(self.leases)]))

    def _has_lease(self) -> bool:
        """Whether there is one, or one can be had now."""
        if not self.leases:
            self.ask(patience=0.05)
        if not self.leases and self.borrowers:
            self.run(asyncio.wait([borrower.task for borrower in self.borrowers], timeout=0.05))
            self._collect()
        return bool(self.leases)

    @rule(index=st.integers(0, 100))
    def query(self, index: int) -> None:
        self._use(index, lambda lease: lease.fetchval("SELECT 1"))

    @rule(index=st.integers(0, 100), statement=st.sampled_from(DIRT))
    def dirty_the_session(self, index: int, statement: str) -> None:
        self._use(index, lambda lease: lease.execute(statement))

    @rule(index=st.integers(0, 100), statement=st.sampled_from(["BEGIN", "BEGIN; SELECT 1/0"]))
    def leave_a_transaction_open(self, index: int, statement: str) -> None:
        self._use(index, lambda lease: lease.execute(statement))

    @rule(index=st.integers(0, 100))
    def begin_a_transaction(self, index: int) -> None:
        self._use(index, lambda lease: lease.transaction().start())

    @rule(index=st.integers(0, 100))
    def start_a_query(self, index: int) -> None:
        async def start(lease: Lease) -> None:
            self.queries.append(asyncio.create_task(self._sleep(lease)))

        if self._has_lease():
            self.run(start(self.leases[index % len(self.leases)]))

    async def _sleep(self, lease: Lease) -> None:
        with contextlib.suppress(*LOST):
            await lease.execute("SELECT pg_sleep(0.02)")

    @rule(index=st.integers(0, 100))
    def cancel_a_query(self, index: int) -> None:
        if not self.queries:
            return
        task = self.queries.pop(index % len(self.queries))
        task.cancel()
        self.run(asyncio.wait_for(asyncio.wait([task]), SOON))

    # -- returning ---------------------------------------------------------------------------------

    @rule(index=st.integers(0, 100), also_again=st.booleans())
    def give_back(self, index: int, also_again: bool) -> None:
        if not self._has_lease():
            return
        lease = self.leases.pop(index % len(self.leases))
        self.run(self.pool.release(lease))
        if also_again:
            self.run(self.pool.release(lease))
        self._collect()

    @rule(index=st.integers(0, 100))
    def forget(self, index: int) -> None:
        if not self._has_lease():
            return
        del self.leases[index % len(self.leases)]
        self.queries = [query for query in self.queries if not query.done()]
        gc.collect(0)

    @rule(index=st.integers(0, 100), how=st.sampled_from(["close", "terminate"]))
    def close_the_connection(self, index: int, how: str) -> None:
        async def end(lease: Lease) -> None:
            if how == "close":
                await lease.close()
            else:
                lease.terminate()

        self._use(index, end)

    # -- steering and hurting ----------------------------------------------------------------------

    @rule(number=st.integers(1, MAX_SIZE))
    def kill_backends(self, number: int) -> None:
        self.run(self._kill(number))
        self._collect()

    async def _kill(self, number: int) -> None:
        await self.admin.fetch(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
            " WHERE application_name = $1 ORDER BY random() LIMIT $2) AS chosen",
            self.name,
            number,
        )

    @rule(sizes=st.tuples(st.integers(0, MAX_SIZE), st.integers(1, MAX_SIZE)).map(sorted))
    def resize(self, sizes: list[int]) -> None:
        self.run(self._resize(sizes[0], max(sizes[1], 1)))

    async def _resize(self, min_size: int, max_size: int) -> None:
        # A pool that was shrunk may be above its maximum until enough has come back; it must not grow.
        # Counted here, because before this ran the pool may still have grown to its old maximum.
        self.most_allowed = max(max_size, self.sessions)
        promised = sum(at_least for _, at_least in self.limits.values())
        async with asyncio.timeout(SOON):
            if promised and promised >= max_size:
                with pytest.raises(ValueError, match="at_least of all lanes"):
                    await self.pool.resize(min_size=min_size, max_size=max_size)
                self.most_allowed = max(self.pool.get_max_size(), self.sessions)
            else:
                await self.pool.resize(min_size=min_size, max_size=max_size)

    @rule(
        lane=LANES,
        at_most=st.one_of(st.none(), st.integers(1, MAX_SIZE)),
        at_least=st.integers(0, 2),
        weight=st.sampled_from([0.5, 1, 3]),
    )
    def limit_a_lane(self, lane: Any, at_most: int | None, at_least: int, weight: float) -> None:
        at_least = min(at_least, at_most or at_least)
        others = sum(promised for name, (_, promised) in self.limits.items() if name != lane)
        if at_least and others + at_least >= self.pool.get_max_size():
            with pytest.raises(ValueError, match="at_least of all lanes"):
                self.pool.set_lane(lane, at_most=at_most, at_least=at_least, weight=weight)
            return

        async def limit() -> None:
            self.pool.set_lane(lane, at_most=at_most, at_least=at_least, weight=weight)

        self.run(limit())
        held = self.pool._state.lanes.find(lane, monotonic()).in_use
        self.limits[lane] = (max(at_most or MAX_SIZE, held), at_least)
        self._collect()

    @rule()
    def expire(self) -> None:
        self.run(self.pool.expire_connections())

    @rule()
    def suspend(self) -> None:
        self.pool.suspend()

    @rule()
    def resume(self) -> None:
        async def resume() -> None:
            self.pool.resume()

        self.run(resume())
        self._collect()

    @rule()
    def let_time_pass(self) -> None:
        """Until the server has answered something: no longer than a millisecond or so."""
        self.run(self.admin.fetchval("SELECT 1"))
        self.run(eventually(self._nobody_waits_beside_an_idle_one, SOON))
        self._collect()

    def _nobody_waits_beside_an_idle_one(self) -> bool:
        """Unless what is idle is kept for others."""
        state = self.pool._state
        return not (state.idle and state.wanting)

    # -- what holds --------------------------------------------------------------------------------

    @property
    def sessions(self) -> int:
        stats = self.pool.stats()
        return stats.size + stats.opening + stats.closing

    @invariant()
    def the_numbers_add_up(self) -> None:
        if hasattr(self, "pool"):
            assert_balanced(self.pool.stats())

    @invariant()
    def there_are_never_more_sessions_than_allowed(self) -> None:
        if hasattr(self, "pool"):
            assert self.sessions <= self.most_allowed
            self.most_allowed = max(self.pool.get_max_size(), min(self.most_allowed, self.sessions))

    @invariant()
    def lanes_hold_what_is_lent_in_them(self) -> None:
        if hasattr(self, "pool"):
            assert_counted_right(self.pool)

    @invariant()
    def no_lane_holds_more_than_it_may(self) -> None:
        if hasattr(self, "pool"):
            for lane in self.pool._state.lanes:
                at_most, at_least = self.limits.get(lane.name, (MAX_SIZE, 0))
                assert lane.in_use <= at_most
                if lane.in_use <= lane.at_most:
                    self.limits[lane.name] = (int(min(lane.at_most, MAX_SIZE)), at_least)

    @invariant()
    def no_two_leases_share_a_backend(self) -> None:
        if hasattr(self, "pool"):
            pids = [lease.backend_pid for lease in self.pool.leases()]
            assert len(pids) == len(set(pids))

    @rule()
    def come_to_rest(self) -> None:
        """Everything is returned: then a borrow works, and the server agrees with the numbers."""
        self.run(self._come_to_rest())

    async def _come_to_rest(self) -> None:
        self.pool.resume()
        for borrower in self.borrowers:
            borrower.task.cancel()
        if self.borrowers:
            await asyncio.wait([borrower.task for borrower in self.borrowers])
        self._collect()
        while self.leases:
            await self.pool.release(self.leases.pop())
        if self.queries:
            await asyncio.wait(self.queries)
            self.queries.clear()
        gc.collect(0)
        await eventually(self._serves, SOON)
        await eventually(self._agrees, SOON)

    async def _serves(self) -> bool:
        """Whether the next borrower gets a session that works and that nobody has left anything in."""
        try:
            async with self.pool.acquire(timeout=SOON) as lease:
                assert await lease.fetchval(LEFT_BEHIND) == 0, "a borrower sees what another has left"
                assert not lease.is_in_transaction(), "a borrower finds itself in another's transaction"
        except (PoolUnavailable, *LOST):
            return False  # killed while it was being opened, or before, and not noticed yet
        return True

    async def _agrees(self) -> bool:
        """Whether the server's sessions are the pool's, and at rest."""
        stats = self.pool.stats()
        sessions = await self.admin.fetch(
            "SELECT state FROM pg_stat_activity WHERE application_name = $1", self.name
        )
        assert_balanced(stats)
        assert [session["state"] for session in sessions] == ["idle"] * stats.size, stats
        assert stats.min_size <= stats.size <= stats.max_size, stats
        assert at_rest(stats), stats
        return True

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        try:
            if not self.failed:
                self.run(self._come_to_rest())
                self.run(self._end())
        finally:
            self.runner.run(self._cut())
            self.runner.close()

    async def _cut(self) -> None:
        self.pool.terminate()
        for task in (*self.queries, *(borrower.task for borrower in self.borrowers)):
            task.cancel()
        self.admin.terminate()
        await asyncio.sleep(0)

    async def _end(self) -> None:
        await self.pool.drain(SOON)
        stats = self.pool.stats()
        assert_balanced(stats)
        assert nothing_left(stats)
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1"
        await eventually(lambda: self.admin.fetchval(gone, self.name), SOON)


def machine_on(server: PostgresServer) -> type[PoolMachine]:
    return type("PoolMachine", (PoolMachine,), {"dsn": server.dsn()})


# Time plays its part, so a failure may not come again when the same steps are: the report then has it
# inside a FlakyFailure, and there is nothing to shrink.
UNHURRIED = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


@pytest.mark.timeout(120)
def test_a_few_hundred_random_steps(postgres: PostgresServer) -> None:
    run_state_machine_as_test(
        machine_on(postgres), settings=settings(UNHURRIED, max_examples=12, stateful_step_count=40)
    )


@pytest.mark.slow
@pytest.mark.timeout(100)
def test_ten_thousand_random_steps(postgres: PostgresServer) -> None:
    run_state_machine_as_test(
        machine_on(postgres), settings=settings(UNHURRIED, max_examples=100, stateful_step_count=100)
    )
