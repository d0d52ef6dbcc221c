"""Opening one server session: host after host, each with a budget of its own."""

from __future__ import annotations

import asyncio
from inspect import signature
from typing import Any

import asyncpg

from app.pool import driver
from app.pool.config import Hook

# What says "try the next host"; anything else (a wrong password, an unknown database) would be the
# same there, or is a mistake that must be seen. As libpq decides.
_NEXT_HOST = (
    OSError,  # a TimeoutError is one
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.TargetServerAttributeNotMatched,
)
_WRITABLE_ROLES = ("primary", "read-write")


class Connector:
    """Opens sessions with the arguments of `asyncpg.connect()` and runs `init` on each.

    asyncpg gives all hosts of a URL one timeout, so a black hole in front starves the rest. Here every
    host has `timeout` seconds, and the host that answered last is asked first next time.

    Raises asyncpg.ClientConfigurationError, ValueError or TypeError when asyncpg would refuse its arguments.
    """

    def __init__(self, dsn: str | None, timeout: float, init: Hook | None, options: dict[str, Any]) -> None:
        signature(asyncpg.connect).bind(dsn, **options)  # told now, not by every attempt in the background
        self._dsn = dsn
        self._timeout = timeout
        self._init = init
        self._options = options
        self._hosts, role = driver.targets_of(dsn, options)
        self._roles = ("standby", "any") if role == "prefer-standby" else (role,)
        self.asks_for_writable = role in _WRITABLE_ROLES

    async def connect(self) -> asyncpg.Connection:
        """A new session, ready to be lent.

        Raises what `asyncpg.connect()` or `init` raises; with several hosts, what the last one said.
        """
        connection = await self._reach_a_host()
        try:
            driver.tune_socket(connection)
            await self.greet(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def greet(self, connection: asyncpg.Connection) -> None:
        """Run `init`, within the budget of one connection attempt."""
        if self._init is None:
            return
        async with asyncio.timeout(self._timeout):
            await self._init(connection)
        if driver.is_in_transaction(connection):
            raise asyncpg.InterfaceError("the init hook left a transaction open")

    async def _reach_a_host(self) -> asyncpg.Connection:
        last_error: Exception | None = None
        for role in self._roles:
            for host in tuple(self._hosts):
                try:
                    connection = await self._connect_to(host, role)
                except _NEXT_HOST as error:
                    last_error = error
                    continue
                self._ask_first(host)
                return connection
        assert last_error is not None
        raise last_error

    async def _connect_to(self, host: tuple[str, int], role: str) -> asyncpg.Connection:
        options = {
            **self._options,
            "host": host[0],
            "port": host[1],
            "target_session_attrs": role,
            "timeout": self._timeout,
        }
        try:
            return await asyncpg.connect(self._dsn, **options)
        except TimeoutError as error:
            if str(error):
                raise
            message = f"no answer from {host[0]}:{host[1]} within {self._timeout:g} s"
            raise TimeoutError(message) from None

    def _ask_first(self, host: tuple[str, int]) -> None:
        if self._hosts[0] != host:
            self._hosts.remove(host)
            self._hosts.insert(0, host)
