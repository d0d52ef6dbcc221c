"""What the pool refuses to be told: times that nobody can wait, sizes that are none."""

import math
from typing import Any

import pytest

from app.pool import Pool, PoolTimeout
from tests.pool.conftest import MakePool

NO_TIMES = {
    "nan": (math.nan, ValueError),
    "inf": (math.inf, ValueError),
    "negative": (-1, ValueError),
    "beyond all clocks": (10**400, ValueError),
    "text": ("1", TypeError),
    "bool": (True, TypeError),
}


@pytest.mark.parametrize("wrong", NO_TIMES)
async def test_what_is_no_time_to_wait_is_refused_by_name(make_pool: MakePool, wrong: str) -> None:
    value, error = NO_TIMES[wrong]
    time: Any = value
    pool = await make_pool()
    with pytest.raises(error, match="timeout must be"):
        pool.acquire(timeout=time)
    with pytest.raises(error, match="timeout must be"):
        pool.try_shed(time)
    with pytest.raises(error, match="timeout must be"):
        await pool.wait_ready(time)
    with pytest.raises(error, match="timeout must be"):
        await pool.drain(time)
    assert not pool.is_closing()
    for name in (
        "acquire_timeout",
        "connect_timeout",
        "queue_target",
        "idle_timeout",
        "max_lifetime",
        "health_check_interval",
        "validate_after",
        "leak_threshold",
    ):
        with pytest.raises(error, match=f"{name} must be"):
            Pool(**{name: time})


@pytest.mark.parametrize("wrong", [math.nan, 1.5, "1", True])
async def test_what_is_no_number_of_connections_is_refused_by_name(make_pool: MakePool, wrong: Any) -> None:
    pool = await make_pool()
    for name in ("min_size", "max_size", "max_waiting"):
        with pytest.raises(TypeError, match=f"{name} must be"):
            Pool(**{name: wrong})
    for name in ("min_size", "max_size"):
        with pytest.raises(TypeError, match=f"{name} must be"):
            await pool.resize(**{name: wrong})
    with pytest.raises(TypeError, match="ahead must be"):
        pool.try_shed(ahead=wrong)


async def test_a_timeout_of_nothing_waits_for_nobody(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=1)
    async with pool.acquire(timeout=0):
        with pytest.raises(PoolTimeout):
            await pool.acquire(timeout=0)
    with pytest.raises(ValueError, match="ahead must be"):
        pool.try_shed(ahead=-1)
