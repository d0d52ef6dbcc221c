"""Metrics: the names and labels that dashboards rely on, and numbers that agree with the pool's."""

import math
from dataclasses import replace

import pytest
import structlog
from lifeguard.observability import BreakerNumbers, Metrics, PoolNumbers, ReplicaNumbers
from lifeguard.pool import Pool, PoolStats
from lifeguard.pool.stats import Histogram
from prometheus_client import REGISTRY, Counter
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from structlog.testing import capture_logs

POOL = "db_client_connection_pool_name"
STATE = "db_client_connection_state"

# The contract's metrics and their labels besides the pool's name.
CONTRACT = {
    "db_client_connection_count": ("gauge", {STATE}),
    "db_pool_connections": ("gauge", {"state"}),
    "db_client_connection_max": ("gauge", set()),
    "db_client_connection_idle_min": ("gauge", set()),
    "db_client_connection_pending_requests": ("gauge", set()),
    "db_pool_oldest_wait_seconds": ("gauge", set()),
    "db_pool_standing_queue_seconds": ("gauge", set()),
    "db_client_connection_timeouts_total": ("counter", set()),
    "db_client_connection_create_time_seconds": ("histogram", set()),
    "db_client_connection_wait_time_seconds": ("histogram", set()),
    "db_client_connection_use_time_seconds": ("histogram", set()),
    "db_pool_shed_total": ("counter", {"reason"}),
    "db_pool_opened_total": ("counter", set()),
    "db_pool_closed_total": ("counter", {"reason"}),
    "db_pool_open_failures_total": ("counter", set()),
    "db_pool_resets_total": ("counter", set()),
    "db_pool_leaks_total": ("counter", {"kind"}),
    "db_pool_breaker_state": ("gauge", set()),
    "db_pool_breaker_transitions_total": ("counter", {"to"}),
    "db_pool_lane_used": ("gauge", {"lane"}),
    "db_pool_lane_waiting": ("gauge", {"lane"}),
    "db_pool_lane_breaker_state": ("gauge", {"lane"}),
    "db_pool_lane_shed_total": ("counter", {"lane", "priority"}),
}


def stats(name: str = "primary") -> PoolStats:
    busy = Histogram()
    for seconds in (0.0004, 0.003, 99.0):
        busy.observe(seconds)
    return replace(
        Pool(name=name, min_size=2, max_size=9).stats(),
        idle=3, used=4, waiting=5, oldest_wait=5.5, timeouts=6, opened=7, open_failures=8, resets=9,
        validating=13, returning=14, opening=15, closing=16, standing_queue=17.5,
        shed={"queue_full": 10}, closed={"lifetime": 11}, leaks={"overdue": 12},
        wait=busy.snapshot(), use=busy.snapshot(), create=busy.snapshot(),
    )  # fmt: skip


def metrics_of(*pools: PoolStats, breaker: BreakerNumbers | None = None, draining: bool = False) -> Metrics:
    numbers = [PoolNumbers(pool, breaker or BreakerNumbers(), reads=18) for pool in pools]
    return metrics_of_numbers(numbers, draining=draining)


def metrics_of_numbers(pools: list[PoolNumbers], *, draining: bool = False) -> Metrics:
    return Metrics(
        target={"service_name": "ledger", "service_version": "1.2"},
        pools=lambda: pools,
        ready=lambda: not draining,
        draining=lambda: draining,
        in_flight=lambda: 3,
        loop_lag=lambda: 0.25,
    )


def samples(metrics: Metrics) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(metrics.render("")[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


class TestPools:
    def test_have_the_contracts_names_types_and_labels(self) -> None:
        families = {
            family.name + ("_total" if family.type == "counter" else ""): family
            for family in text_string_to_metric_families(metrics_of(stats()).render("")[0].decode())
        }
        for name, (kind, labels) in CONTRACT.items():
            family = families[name]
            assert family.type == kind
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == {POOL, *labels}

    def test_say_what_the_pool_says(self) -> None:
        found = samples(metrics_of(stats()))
        values = {
            (name, *sorted(set(sample.labels.values()) - {"primary"})): sample.value
            for name in found
            if name.startswith("db_") and "time_seconds" not in name and "breaker" not in name
            for sample in found[name]
        }
        assert values == {
            ("db_client_connection_count", "idle"): 3,
            ("db_client_connection_count", "used"): 4,
            ("db_pool_connections", "idle"): 3,
            ("db_pool_connections", "used"): 4,
            ("db_pool_connections", "validating"): 13,
            ("db_pool_connections", "returning"): 14,
            ("db_pool_connections", "opening"): 15,
            ("db_pool_connections", "closing"): 16,
            ("db_client_connection_max",): 9,
            ("db_client_connection_idle_min",): 2,
            ("db_client_connection_pending_requests",): 5,
            ("db_pool_oldest_wait_seconds",): 5.5,
            ("db_pool_standing_queue_seconds",): 17.5,
            ("db_client_connection_timeouts_total",): 6,
            ("db_pool_opened_total",): 7,
            ("db_pool_open_failures_total",): 8,
            ("db_pool_resets_total",): 9,
            ("db_pool_shed_total", "queue_full"): 10,
            ("db_pool_closed_total", "lifetime"): 11,
            ("db_pool_leaks_total", "overdue"): 12,
            ("db_reads_total",): 18,
        } | {
            ("db_pool_shed_total", reason): 0
            for reason in ("queue_target", "deadline", "stale", "lane_breaker")
        } | {("db_pool_leaks_total", kind): 0 for kind in ("abandoned", "nested")}

    def test_sheds_and_leaks_rise_from_nothing(self) -> None:
        """An alert on the first of them needs a number before it."""
        found = samples(metrics_of(replace(stats(), shed={}, leaks={})))
        assert {sample.value for sample in found["db_pool_shed_total"]} == {0}
        assert {sample.value for sample in found["db_pool_leaks_total"]} == {0}

    @pytest.mark.parametrize("what", ["wait", "use", "create"])
    def test_histograms_are_cumulative(self, what: str) -> None:
        found = samples(metrics_of(stats()))
        name = f"db_client_connection_{what}_time_seconds"
        buckets = {float(sample.labels["le"]): sample.value for sample in found[f"{name}_bucket"]}
        assert (buckets[0.0005], buckets[0.005], buckets[10.0], buckets[math.inf]) == (1, 2, 2, 3)
        assert list(buckets.values()) == sorted(buckets.values())
        assert found[f"{name}_count"][0].value == 3
        assert found[f"{name}_sum"][0].value == pytest.approx(99.0034)

    def test_are_told_apart_by_name(self) -> None:
        found = samples(metrics_of(stats(), stats("replica")))
        assert {sample.labels[POOL] for sample in found["db_client_connection_max"]} == {"primary", "replica"}

    @pytest.mark.parametrize(
        ("replica", "lag"),
        [
            (ReplicaNumbers(serves=True, standing="current", lag_seconds=0.5, lag_bytes=9), [0.5]),
            (ReplicaNumbers(serves=False, standing="silent"), []),
        ],
    )
    def test_say_whether_the_replica_is_read(self, replica: ReplicaNumbers, lag: list[float]) -> None:
        pools = [
            PoolNumbers(stats(), BreakerNumbers(), reads=7),
            PoolNumbers(stats("replica"), BreakerNumbers(), 9, replica),
        ]
        found = samples(metrics_of_numbers(pools))
        assert [(s.labels, s.value) for s in found["db_reads_total"]] == [
            ({"to": "primary"}, 7),
            ({"to": "replica"}, 9),
        ]
        (serves,) = found["db_replica_serves"]
        assert (serves.labels, serves.value) == ({POOL: "replica"}, replica.serves)
        assert [sample.value for sample in found.get("db_replica_lag_seconds", [])] == lag

    def test_are_described_when_there_is_none(self) -> None:
        text = metrics_of().render("")[0].decode()
        assert "# TYPE db_client_connection_wait_time_seconds histogram" in text

    @pytest.mark.parametrize(("state", "number"), [("closed", 0), ("half-open", 1), ("open", 2)])
    def test_breaker_states_are_numbers(self, state: str, number: int) -> None:
        breaker = BreakerNumbers(state, {state: 4})
        found = samples(metrics_of(stats(), breaker=breaker))
        assert found["db_pool_breaker_state"][0].value == number
        transitions = {
            sample.labels["to"]: sample.value for sample in found["db_pool_breaker_transitions_total"]
        }
        assert transitions == {"closed": 0, "half-open": 0, "open": 0} | {state: 4}


class TestService:
    def test_says_whether_it_drains_and_how_late_its_loop_is(self) -> None:
        found = samples(metrics_of(draining=True))
        assert found["app_draining"][0].value == 1
        assert found["app_ready"][0].value == 0
        assert found["event_loop_lag_seconds"][0].value == 0.25
        assert found["http_requests_inprogress"][0].value == 3

    def test_says_what_it_is(self) -> None:
        (target,) = samples(metrics_of())["target_info"]
        assert target.labels == {"service_name": "ledger", "service_version": "1.2"}

    def test_counts_older_answers_by_route(self) -> None:
        metrics = metrics_of()
        metrics.note_stale_answer("/items")
        (sample,) = samples(metrics)["app_stale_answers_total"]
        assert (sample.labels, sample.value) == ({"handler": "/items"}, 1)

    def test_two_apps_have_two_registries(self) -> None:
        one, other = metrics_of(), metrics_of()
        one.observe("GET", "/items", 200, 0.01)
        assert "http_requests_total" in samples(one)
        assert "http_requests_total" not in samples(other)


class TestHttp:
    def test_requests_and_latency_by_route(self) -> None:
        metrics = metrics_of()
        metrics.observe("POST", "/items", 503, 0.02)
        found = samples(metrics)
        assert found["http_requests_total"][0].labels == {
            "handler": "/items",
            "method": "POST",
            "status": "5xx",
        }
        buckets = {float(s.labels["le"]): s.value for s in found["http_request_duration_seconds_bucket"]}
        assert (buckets[0.01], buckets[0.025]) == (0, 1)

    def test_the_first_failure_of_a_route_is_a_rise_from_zero(self) -> None:
        metrics = metrics_of()
        metrics.observe("GET", "/items", 200, 0.01)
        found = {s.labels["status"]: s.value for s in samples(metrics)["http_requests_total"]}
        assert found == {"2xx": 1, "5xx": 0}

    def test_invented_methods_make_no_series_of_their_own(self) -> None:
        metrics = metrics_of()
        for method in ("BREW", "WHEN", "PROPFIND"):
            metrics.observe(method, "none", 405, 0.0)
        (sample,) = samples(metrics)["http_requests_total"]
        assert (sample.labels["method"], sample.value) == ("other", 3)


class TestOfTheServicesOwn:
    """Made as prometheus_client's documentation says, in its own registry."""

    @pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
    def test_are_served_once_beside_ours(self, accept: str) -> None:
        invoices = Counter("invoices_sent", "Invoices sent.", ["country"])
        try:
            invoices.labels("pl").inc(3)
            for metrics in (metrics_of(stats()), metrics_of(stats())):  # two apps in a process
                lines = metrics.render(accept)[0].decode().splitlines()
                assert [line for line in lines if line.startswith("invoices_sent_total")] == [
                    'invoices_sent_total{country="pl"} 3.0'
                ]
                types = [line for line in lines if line.startswith("# TYPE ")]
                assert len(types) == len(set(types))
                assert len([line for line in lines if line.startswith("process_start_time_seconds ")]) == 1
        finally:
            REGISTRY.unregister(invoices)

    def test_with_the_name_of_one_of_ours_are_not_and_an_event_says_so_once(self) -> None:
        requests = Counter("http_requests", "Mine.")
        metrics = metrics_of(stats())
        configuration = structlog.get_config()
        structlog.reset_defaults()
        try:
            with capture_logs() as log:
                for _ in range(2):
                    assert b"Mine." not in metrics.render("")[0]
        finally:
            REGISTRY.unregister(requests)
            structlog.configure(**configuration)
        assert [(line["event"], line["metric"]) for line in log] == [("metric_not_served", "http_requests")]
