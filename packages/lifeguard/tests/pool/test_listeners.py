"""Listeners that asyncpg refuses, or cannot take away again when the connection comes back."""

from collections.abc import Callable

import asyncpg
import pytest
from lifeguard.pool import Lease

from packages.lifeguard.tests.pool.conftest import Events, MakePool


class Unhashable:
    def __hash__(self) -> int:
        raise TypeError("unhashable")

    def __call__(self, *_: object) -> None:
        pass


class HashableOnce(Unhashable):
    """Can be registered, but not removed."""

    hashed = False

    def __hash__(self) -> int:
        if self.hashed:
            raise TypeError("unhashable by now")
        self.hashed = True
        return 1


ADD = ["add_log_listener", "add_termination_listener", "add_query_logger"]


def register(lease: Lease, name: str, callback: object) -> None:
    context = getattr(lease, name)(callback)
    if context is not None:
        context.__enter__()


@pytest.mark.parametrize("wrong", [lambda: None, Unhashable], ids=["None", "unhashable"])
@pytest.mark.parametrize("name", [*ADD, "query_logger"])
async def test_a_listener_that_asyncpg_refuses_costs_no_connection(
    make_pool: MakePool, name: str, wrong: Callable[[], object]
) -> None:
    pool = await make_pool(max_size=1)
    async with pool.acquire() as lease:
        pid = lease.get_server_pid()
        with pytest.raises((asyncpg.InterfaceError, TypeError)):
            register(lease, name, wrong())
    async with pool.acquire() as lease:
        assert lease.get_server_pid() == pid


@pytest.mark.parametrize("name", ADD)
async def test_a_listener_that_cannot_be_removed_costs_the_session_and_is_replaced(
    make_pool: MakePool, events: Events, name: str
) -> None:
    pool = await make_pool(max_size=1)
    async with pool.acquire() as lease:
        register(lease, name, HashableOnce())
    [failed] = events.named("return_failed")
    assert "unhashable by now" in str(failed.details["error"])
    async with pool.acquire() as lease:
        assert lease.get_server_pid() != failed.details["backend_pid"]
