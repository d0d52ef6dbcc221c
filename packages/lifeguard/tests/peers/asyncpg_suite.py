"""Run test modules of asyncpg's source distribution with Pool in place of asyncpg.Pool.

    python -m packages.lifeguard.tests.peers.asyncpg_suite FOLDER POOL_MODULES LEASE_MODULES LEFT_OUT

The names are separated by commas. In LEASE_MODULES the connection of every test is a lease. Writes one line
of JSON with the outcome of each test.
"""

import asyncio
import importlib
import importlib.util
import json
import logging
import os
import signal
import sys
import types
import unittest
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from lifeguard.pool import Pool
from lifeguard.pool.connection import PooledConnection, Status
from lifeguard.testing.servers import PostgresServer, server_directory
from lifeguard.testing.waiting import eventually

base: Any = importlib.import_module("asyncpg._testbase")  # untyped, and patched here
_Cluster: Any = importlib.import_module("asyncpg.cluster").Cluster

NEVER = 3600.0
"""Seconds; asyncpg.Pool waits without a bound."""
Options = dict[str, Any]


class Place:
    """What asyncpg's tests look at inside of asyncpg.Pool: a place for a connection."""

    def __init__(self, pooled: PooledConnection | None) -> None:
        live = pooled is not None and not pooled.connection.is_closed()
        self._con = pooled.connection if pooled is not None and live else None
        self._in_use = pooled if pooled is not None and live and pooled.status is Status.IN_USE else None

    def is_connected(self) -> bool:
        return self._con is not None


class PeerPool(Pool):
    """Takes the arguments of asyncpg.create_pool(), without the bounds that it does not have, and is open
    once its first connections are."""

    _maintenance_task = None

    def __init__(self, dsn: str | None, options: Options) -> None:
        for name in ("loop", "max_queries"):
            options.pop(name, None)
        options["idle_timeout"] = options.pop("max_inactive_connection_lifetime", 300.0)
        options = {name: value for name, value in options.items() if value is not None}
        super().__init__(dsn, acquire_timeout=NEVER, queue_target=0, on_event=ignore, **options)

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._warmed().__await__()

    async def __aenter__(self) -> Self:
        return await self._warmed()

    async def _warmed(self) -> Self:
        await self.open()
        await eventually(lambda: self.get_size() >= self.get_init_size(), interval=0.001)
        return self

    @property
    def _queue(self) -> Any:
        free = self.get_max_size() - self.stats().used
        return types.SimpleNamespace(qsize=lambda: free)

    @property
    def _holders(self) -> list[Place]:
        members = sorted(self._state.members, key=attrgetter("opened_at"))
        return [Place(pooled) for pooled in members] + [Place(None)] * (self.get_max_size() - len(members))


def ignore(_: object) -> None:
    """Events are not asyncpg.Pool's."""


def create_pool(self: Any, pool_class: Any = None, **options: Any) -> PeerPool:
    """`ClusterTestCase.create_pool()`, whose defaults it has."""
    where = self.get_connection_spec(options)
    dsn = where.pop("dsn", None)
    pool = PeerPool(dsn, {"min_size": 10, "max_size": 10, **where})
    self._pools.append(pool)
    return pool


def end_pools(self: Any) -> None:
    """`ClusterTestCase.tearDown()`."""
    for pool in self._pools:
        pool.terminate()
    self.loop.run_until_complete(asyncio.sleep(0.01))
    self._pools = []
    base.TestCase.tearDown(self)


class Cluster(_Cluster):  # type: ignore[misc]  # untyped
    """asyncpg's tests start and stop servers; these are the suite's."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._data_dir = str(server.directory / "data")
        self._pg_version = None
        run(server.start())
        self.trust_local_connections()

    def get_pg_version(self) -> tuple[int, int]:
        return (18, 0)

    def get_status(self) -> str:
        return "running"

    def get_connection_spec(self) -> Options:
        return {"host": "127.0.0.1", "port": self._server.port, "user": "postgres", "database": "postgres"}

    def trust_local_connections(self) -> None:
        super().trust_local_connections()
        self.reload()

    def reload(self) -> None:
        pid = self._server.pid
        assert pid is not None
        os.kill(pid, signal.SIGHUP)

    def init(self, **_: object) -> None:
        """It is."""

    def start(self, **_: object) -> None:
        run(self._server.start())

    def stop(self, wait: int = 60) -> None:
        run(self._server.stop())

    def destroy(self) -> None:
        """Its directory is temporary."""


def run(coroutine: Any) -> Any:
    """Also from a thread or a test's own loop."""

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


class OnALease:
    """`ConnectedTestCase` whose connection is borrowed."""

    @staticmethod
    def set_up(self: Any) -> None:  # noqa: PLW0211 - a method of its, not of this class
        base.ClusterTestCase.setUp(self)
        test = getattr(self, self._testMethodName).__func__
        options = getattr(test, "__connect_options__", {})
        pool = self.create_pool(min_size=1, max_size=1, init_size=1, **options)
        self.con = self.loop.run_until_complete(borrow(pool))
        self.server_version = self.con.get_server_version()

    @staticmethod
    def tear_down(self: Any) -> None:  # noqa: PLW0211
        self.loop.run_until_complete(give_back(self._pools[0], self.con))
        self.con = None
        base.ClusterTestCase.tearDown(self)


async def borrow(pool: PeerPool) -> Any:
    return await (await pool).acquire()


async def give_back(pool: PeerPool, lease: Any) -> None:
    """Not in haste: a cancel request that is broken off has asyncpg complain to the loop."""
    await pool.release(lease)
    await pool.drain(5)


class Outcomes(unittest.TestResult):
    """What became of each test; the first complaint counts."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, str | None] = {}

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self.of.setdefault(name_of(test), None)

    def _note(self, test: Any, error: Any) -> None:
        test = getattr(test, "test_case", test)
        name = name_of(test)
        if self.of.get(name) is None and not name.startswith("tearDownClass"):
            self.of[name] = self._exc_info_to_string(error, test)  # type: ignore[attr-defined]  # its own way to say it

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        self._note(test, err)

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._note(test, err)

    def addSubTest(self, test: Any, _: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self._note(test, err)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        self.of[name_of(test)] = f"skipped: {reason}"

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        self.of[name_of(test)] = None


def name_of(test: Any) -> str:
    """`module.Class.method`."""
    return str(test.id()).removeprefix("peer.")


def load(folder: Path, module: str) -> list[unittest.TestCase]:
    name = f"peer.{module}"
    spec = importlib.util.spec_from_file_location(name, folder / "tests" / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return list(flat(unittest.defaultTestLoader.loadTestsFromModule(loaded)))


def flat(tests: Any) -> Generator[unittest.TestCase]:
    for test in tests:
        if isinstance(test, unittest.TestCase):
            yield test
        else:
            yield from flat(test)


def main(folder: Path, pool_modules: list[str], lease_modules: list[str], left_out: set[str]) -> None:
    sys.modules["peer"] = types.ModuleType("peer")
    os.environ.pop("PGHOST", None)
    logging.disable()
    outcomes = Outcomes()
    base.ClusterTestCase.create_pool = create_pool
    base.ClusterTestCase.tearDown = end_pools
    with server_directory() as directory:
        servers: list[PostgresServer] = []

        def new_cluster(*_: object, **__: object) -> Cluster:
            servers.append(PostgresServer(directory / str(len(servers)), {"max_connections": "200"}))
            return Cluster(servers[-1])

        base.ClusterTestCase.new_cluster = new_cluster
        try:
            base._default_cluster = new_cluster()
            tests = [test for module in pool_modules for test in load(folder, module)]
            unittest.TestSuite(test for test in tests if name_of(test) not in left_out).run(outcomes)
            base.ConnectedTestCase.setUp = OnALease.set_up
            base.ConnectedTestCase.tearDown = OnALease.tear_down
            on_a_lease = [test for module in lease_modules for test in load(folder, module)]
            unittest.TestSuite(test for test in on_a_lease if name_of(test) not in left_out).run(outcomes)
        finally:
            for server in servers:
                server.close()
    unknown = left_out - {name_of(test) for test in (*tests, *on_a_lease)}
    sys.stdout.write(json.dumps({"outcomes": outcomes.of, "unknown": sorted(unknown)}))


if __name__ == "__main__":
    pool_modules, lease_modules, left_out = (list(filter(None, names.split(","))) for names in sys.argv[2:])
    main(Path(sys.argv[1]), pool_modules, lease_modules, set(left_out))
