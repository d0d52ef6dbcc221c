"""What the pool reports becomes a log line with its numbers."""

import pytest
from lifeguard.observability import log_pool_event
from lifeguard.pool import Pool, PoolEvent
from structlog.testing import capture_logs

STATS = Pool(min_size=2, max_size=9).stats()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_an_event_is_a_line_with_the_pools_numbers(level: str) -> None:
    event = PoolEvent("open_failed", level, {"error": "refused"}, STATS)  # type: ignore[arg-type]  # each of them
    with capture_logs() as lines:
        log_pool_event(event)
    assert lines == [
        {
            "event": "open_failed",
            "log_level": level,
            "error": "refused",
            "pool": "primary",
            "size": 0,
            "idle": 0,
            "used": 0,
            "validating": 0,
            "returning": 0,
            "opening": 0,
            "closing": 0,
            "waiting": 0,
            "max_size": 9,
        }
    ]


def test_seconds_are_rounded_to_what_anybody_reads() -> None:
    details = {"retry_in": 0.004543890217064472, "seconds": 6.28e-05, "held_for": 12.000000049}
    with capture_logs() as lines:
        log_pool_event(PoolEvent("open_failed", "warning", details, STATS))
    assert {name: lines[0][name] for name in details} == {
        "retry_in": 0.0045,
        "seconds": 0.0001,
        "held_for": 12.0,
    }


def test_an_event_may_say_more_of_the_numbers_itself() -> None:
    with capture_logs() as (lines):
        log_pool_event(PoolEvent("resized", "info", {"max_size": 20}, STATS))
    assert lines[0]["max_size"] == 20
