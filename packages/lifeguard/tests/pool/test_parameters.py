"""What the pool refuses to be told: times that nobody can wait, sizes that are none."""

import inspect
import math
from dataclasses import fields
from typing import Any

import pytest
from lifeguard.pool import Pool, PoolConfig, PoolTimeout
from lifeguard.testing.servers import PostgresServer

from packages.lifeguard.tests.pool.conftest import MakePool

NO_TIMES = {
    "nan": (math.nan, ValueError),
    "inf": (math.inf, ValueError),
    "negative": (-1, ValueError),
    "beyond all clocks": (10**400, ValueError),
    "text": ("1", TypeError),
    "bool": (True, TypeError),
}


def test_every_setting_is_an_argument_of_the_pool_with_the_same_default() -> None:
    signature = inspect.signature(Pool)
    settings = {setting.name: setting.default for setting in fields(PoolConfig)}
    own = {"dsn", "on_event", "connect_options"}
    assert {n: p.default for n, p in signature.parameters.items() if n not in own} == settings


async def test_a_pool_can_be_made_from_settings_put_together_elsewhere(postgres: PostgresServer) -> None:
    config = PoolConfig(name="elsewhere", min_size=0, max_size=1)
    async with Pool.from_config(config, postgres.dsn(), command_timeout=0.05) as pool:
        assert (pool.name, pool.get_min_size(), pool.get_max_size()) == ("elsewhere", 0, 1)
        with pytest.raises(TimeoutError):
            await pool.execute("SELECT pg_sleep(60)")
    with pytest.raises(TypeError, match="no_such_thing"):
        Pool.from_config(config, postgres.dsn(), no_such_thing=1)


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
