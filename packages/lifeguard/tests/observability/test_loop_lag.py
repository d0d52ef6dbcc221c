"""The lag of the event loop is seen where somebody blocks it."""

import time

from lifeguard.observability import LoopLag
from lifeguard.testing.waiting import eventually


async def test_a_blocked_loop_is_seen_and_remembered() -> None:
    lag = LoopLag()
    assert lag.seconds == 0
    lag.start()
    try:
        time.sleep(0.4)  # noqa: ASYNC251 - the offence itself
        await eventually(lambda: lag.seconds > 0.1)
        assert lag.seconds < 5
    finally:
        lag.stop()


async def test_it_stops() -> None:
    lag = LoopLag()
    lag.stop()  # before it was started
    lag.start()
    lag.stop()
    assert lag._timer
    assert lag._timer.cancelled()
