"""Lanes in metrics: few series however many names there are, and counts that never fall."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from lifeguard.observability import BreakerNumbers, PoolNumbers, Scrubber, shown_name
from lifeguard.observability.lane_metrics import MOST_NAMES, OTHER, LaneMetrics, LaneNames
from lifeguard.observability.lane_names import LONGEST, with_shown_names
from lifeguard.pool import PRIORITIES, LaneStats, OutsideLane, Pool
from lifeguard.pool.lane import Lane
from lifeguard.pool.lane_stats import MOST_COUNTED, LaneSheds
from lifeguard.pool.queue import WaitQueue
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

POOL = "db_client_connection_pool_name"
STATS = Pool(max_size=20).stats()


def lane(name: str, **numbers: Any) -> LaneStats:  # Any: fields of LaneStats
    nothing = {"used": 0, "waiting": 0, "oldest_wait": 0.0, "oldest_use": 0.0, "kept": 0, "at_most": None}
    return LaneStats(**{"name": name, **nothing, "shed": {}, "breaker": "closed", **numbers})


def _queue(lane: Lane, rank: int) -> WaitQueue:
    raise AssertionError("nobody waits")


def values(
    lanes: Iterable[LaneStats],
    shed: dict[str, dict[str, int]] | None = None,
    metrics: LaneMetrics | None = None,
) -> dict[tuple[str, ...], float]:
    """What is told of the lanes: by metric, lane and, of sheds, priority."""
    stats = replace(STATS, lanes=tuple(lanes), shed_by_lane=shed or {})
    numbers = PoolNumbers(stats, BreakerNumbers())
    families = (metrics or LaneMetrics()).families([numbers], POOL)
    samples = [sample for family in families for sample in family.samples]
    assert all(sample.labels.pop(POOL) == "primary" for sample in samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


class TestGauges:
    def test_say_what_the_lanes_say(self) -> None:
        told = values(
            [
                lane("GET /a", used=3, waiting=2),
                lane("GET /b", breaker="open"),
                lane(OTHER, breaker="half_open"),
            ]
        )
        assert {key: value for key, value in told.items() if "shed" not in key[0] and value} == {
            ("db_pool_lane_used", "GET /a"): 3,
            ("db_pool_lane_waiting", "GET /a"): 2,
            ("db_pool_lane_breaker_state", "GET /b"): 2,
            ("db_pool_lane_breaker_state", OTHER): 1,
        }

    def test_of_more_names_than_may_have_series_are_those_of_all_others(self) -> None:
        """The most serious state of a breaker among them is theirs."""
        metrics = LaneMetrics()
        for number in range(MOST_NAMES):
            values([lane(f"tenant {number}")], metrics=metrics)
        late = [lane("late", used=2, breaker="open"), lane("tenant 1", used=3), lane(OTHER, used=4)]
        told = values(late, metrics=metrics)
        used = {key[1]: value for key, value in told.items() if key[0] == "db_pool_lane_used"}
        assert used == {"tenant 1": 3, OTHER: 6}
        assert told["db_pool_lane_breaker_state", OTHER] == 2

    @given(st.lists(st.tuples(st.integers(0, MOST_NAMES * 3), st.floats(0, 300)), max_size=300))
    def test_are_of_few_names_within_an_hour(self, looks: list[tuple[int, float]]) -> None:
        now = 0.0
        names = LaneNames(clock=lambda: now)
        series: dict[str, float] = {}
        for number, pause in looks:
            now += pause
            name = names.series_of(str(number))
            assert name in {str(number), OTHER}
            series[name] = now
            recent = [seen for name, seen in series.items() if name != OTHER and now - seen < 3600]
            assert len(recent) <= MOST_NAMES

    def test_of_a_name_that_was_quiet_for_an_hour_make_room_for_another(self) -> None:
        now = 0.0
        names = LaneNames(clock=lambda: now)
        for number in range(MOST_NAMES):
            names.series_of(str(number))
        now = 3000.0
        assert names.series_of("late") == OTHER
        for number in set(range(MOST_NAMES)) - {1}:
            names.series_of(str(number))
        now = 3600.0
        assert [names.series_of(name) for name in ("late", "0", "1")] == ["late", "0", OTHER]


class TestSheds:
    @given(
        st.lists(st.tuples(st.integers(0, MOST_COUNTED + 20), st.booleans(), st.integers(0, 2)), max_size=300)
    )
    def test_never_fall_and_lose_nobody(self, turned_away: list[tuple[int, bool, int]]) -> None:
        sheds = LaneSheds()
        before: dict[tuple[str, str], int] = {}
        for number, (name, is_outside, rank) in enumerate(turned_away, 1):
            named = OutsideLane(str(name)) if is_outside else f"GET /{name}"
            sheds.note(Lane(named, 0.0, _queue), rank)
            counts = sheds.counts()
            now = {(lane, each): count for lane, by in counts.items() for each, count in by.items()}
            assert all(now[key] >= count for key, count in before.items())
            assert sum(now.values()) == number
            before = now
        assert len(sheds.counts().keys() - {OTHER}) <= MOST_COUNTED

    def test_of_names_from_outside_leave_room_for_the_programs_own(self) -> None:
        sheds = LaneSheds()
        for number in range(MOST_COUNTED):
            sheds.note(Lane(OutsideLane(str(number)), 0.0, _queue), 1)
        sheds.note(Lane("GET /", 0.0, _queue), 1)
        assert sheds.counts()["GET /"] == {"normal": 1}
        assert sheds.counts()[OTHER] == {"normal": MOST_COUNTED // 2}

    def test_show_no_zeros_for_a_lane_that_may_be_among_the_others(self) -> None:
        told = values([lane("tenant")], {OTHER: {"normal": 5}})
        assert ("db_pool_lane_shed_total", "tenant", "normal") not in told

    def test_rise_from_zeros_of_lanes_that_are_used(self) -> None:
        told = values([lane("GET /a")], {"GET /b": {"background": 5}})
        assert {key: value for key, value in told.items() if key[0] == "db_pool_lane_shed_total"} == {
            ("db_pool_lane_shed_total", name, priority): 5
            if (name, priority) == ("GET /b", "background")
            else 0
            for name in ("GET /a", "GET /b")
            for priority in PRIORITIES
        }


class TestNames:
    def test_have_no_secrets_and_are_short_and_in_one_line(self) -> None:
        scrub = Scrubber(["hush-hush-hush"])
        assert shown_name("key hush-hush-hush!", scrub) == "key ***!"
        assert shown_name("a\nb\x1b[2J\u202e\ud800", scrub) == "a?b?[2J??"
        assert shown_name("x" * 1000, scrub) == "x" * (LONGEST - 1) + "…"
        assert shown_name("x" * 5000 + "hush-hush-hush", scrub).startswith("xxx")
        assert "hush" not in shown_name("x" * (LONGEST - 8) + "hush-hush-hush", scrub)

    @given(st.lists(st.text(max_size=3 * LONGEST), max_size=5))
    def test_of_any_kind_make_a_page_that_can_be_read_and_has_no_series_twice(self, names: list[str]) -> None:
        long = [lane("x" * 200 + end) for end in ("one", "other")]
        lanes = (*long, *(lane(name) for name in names))
        sheds = {each.name: {"normal": 1} for each in lanes}
        stats = with_shown_names(replace(STATS, lanes=lanes, shed_by_lane=sheds), Scrubber())

        class Lanes(Collector):
            def collect(self) -> Any:  # as in prometheus_client
                return LaneMetrics().families([PoolNumbers(stats, BreakerNumbers())], POOL)

        registry = CollectorRegistry()
        registry.register(Lanes())
        lines = [line for line in generate_latest(registry).decode().split("\n") if line and line[0] != "#"]
        assert len({line.rpartition(" ")[0] for line in lines}) == len(lines)
        assert sum(float(line.split()[-1]) for line in lines if "lane_shed_total" in line) == len(sheds)
