"""Names from outside: which are known, and what one that hangs does to the others."""

from contextlib import suppress

from lifeguard.pool import OutsideLane, PoolError, PoolEvent
from lifeguard.pool.newcomers import MOST_HEAVY, MOST_KNOWN, Newcomers
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_counted_right
from packages.lifeguard.tests.pool.conftest import MakePool

INVENTED = [OutsideLane(f"invented {number}") for number in range(MOST_KNOWN)]
TENANT = OutsideLane("tenant")


def serve(newcomers: Newcomers, names: list[OutsideLane], *times: float) -> None:
    for time in times:
        for name in names:
            newcomers.served(name, time, crowded=False)


class TestWhoIsKnown:
    def test_a_busy_tenant_is_however_many_invented_names_are_kept_warm(self) -> None:
        newcomers = Newcomers()
        serve(newcomers, INVENTED, 0, 1, 2)
        for minute in range(10):  # each once in twenty seconds
            serve(newcomers, INVENTED, *range(60 * minute + 20, 60 * minute + 80, 20))
        assert not newcomers.knows(TENANT)
        serve(newcomers, [TENANT], *range(620, 640))
        assert newcomers.knows(TENANT)
        assert len(newcomers) <= 2 * MOST_KNOWN

    def test_invented_names_take_no_place_of_a_busier_tenant(self) -> None:
        newcomers = Newcomers()
        serve(newcomers, [TENANT], *range(20))
        for round_ in range(3):
            for number in range(0, 3 * MOST_KNOWN, 10):
                names = [OutsideLane(f"{round_} {number + more}") for more in range(10)]
                start = 20 + 0.2 * number
                serve(newcomers, names, start, start + 1, start + 2)
                serve(newcomers, [TENANT], start)
        assert newcomers.knows(TENANT)
        assert len(newcomers) <= 2 * MOST_KNOWN

    def test_one_unused_for_long_makes_room(self) -> None:
        newcomers = Newcomers()
        serve(newcomers, INVENTED, 0, 1, 2)
        serve(newcomers, [TENANT], 600, 601, 602)
        assert newcomers.knows(TENANT)


class TestOneThatHangs:
    async def test_is_set_aside_and_the_other_newcomers_go_on(self, make_pool: MakePool) -> None:
        events: list[PoolEvent] = []
        pool = await make_pool(min_size=2, max_size=2, on_event=events.append)
        hanging = [await pool.acquire(lane=OutsideLane("hangs")) for _ in range(2)]

        async def is_set_aside() -> bool:
            with suppress(PoolError):
                await pool.acquire(lane=TENANT, timeout=0.5)
            return any(event.name == "newcomer_set_aside" for event in events)

        await eventually(is_set_aside)
        assert {lease.lane for lease in pool.leases()} == {"hangs"}
        assert_counted_right(pool)
        await pool.release(hanging.pop())
        for _ in range(3):
            async with pool.acquire(lane=TENANT, timeout=60):
                assert {lease.lane for lease in pool.leases()} == {"hangs", "newcomers"}
        assert not [event for event in events if event.details.get("lane") == "newcomers"]
        await pool.release(hanging.pop())
        assert_counted_right(pool)

    async def test_is_not_set_aside_where_many_hang(self, make_pool: MakePool) -> None:
        events: list[PoolEvent] = []
        pool = await make_pool(min_size=2, max_size=2, on_event=events.append)
        hanging = [await pool.acquire(lane=name) for name in INVENTED[:2]]

        async def is_open() -> bool:
            with suppress(PoolError):
                await pool.acquire(lane=TENANT, timeout=0.5)
            return any(event.name == "lane_breaker_opened" for event in events)

        await eventually(is_open)
        assert {lease.lane for lease in pool.leases()} == {"newcomers"}
        for lease in hanging:
            await pool.release(lease)

    def test_takes_one_of_few_places(self) -> None:
        newcomers = Newcomers()
        assert all(newcomers.set_aside(name) for name in INVENTED[:MOST_HEAVY])
        assert newcomers.set_aside(INVENTED[0])
        assert not newcomers.set_aside(TENANT)
        newcomers.left(INVENTED[0])
        assert newcomers.set_aside(TENANT)
