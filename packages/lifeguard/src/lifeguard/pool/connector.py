"""Opening one server session: the hosts, and the addresses of each, tried staggered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import isawaitable, signature
from typing import Any, TypeVar

import asyncpg

from lifeguard.pool import cleanup, driver
from lifeguard.pool.addresses import RedirectedLoop, is_name, resolve
from lifeguard.pool.config import KEEPALIVE, Hook, PgBouncerMode
from lifeguard.pool.faults import NoHostServes, OtherServer, ReadOnlyServer
from lifeguard.pool.poolers import Approach, Pooler

# Seconds between the starts of two tries: RFC 8305, section 5, "Connection Attempt Delay".
STAGGER = 0.25

# What says "try the next host"; anything else (a wrong password, an unknown database) would be the
# same there, or is a mistake that must be seen. As libpq decides.
_NEXT_HOST = (
    OSError,  # a TimeoutError is one
    NoHostServes,
    asyncpg.PostgresConnectionError,  # 08*
    asyncpg.OperatorInterventionError,  # 57*: starting, stopping, recovering
    asyncpg.InsufficientResourcesError,  # 53*: too many connections, no memory, no disk
    asyncpg.TargetServerAttributeNotMatched,
)
# Seconds after which a host that has not served yet is looked up anew: its name may have moved, and where
# nobody takes the connection another try may find somebody sooner than TCP, which doubles its pauses.
LOOK_AGAIN = 1.0
_WRITABLE_ROLES = ("primary", "read-write")

T = TypeVar("T")
Host = tuple[str, int]
Tries = Mapping[str, Callable[[], Awaitable[asyncpg.Connection]]]
"""What opens a session, by what it is called in errors."""


class Connector:
    """Opens sessions with the arguments of `asyncpg.connect()` and runs `init` on each.

    asyncpg gives all hosts of a URL one timeout, so a black hole in front starves the rest, and it tries
    them one after the other. Here every host has `timeout` seconds of its own, its name's resolution and
    all addresses included; the next one is tried as soon as one has failed, or has not answered for a
    quarter of a second. The first that serves is taken, and asked first next time. A name is looked up anew
    as long as none of its addresses has served: it may have moved, or be known again.

    Raises asyncpg.ClientConfigurationError, ValueError or TypeError when asyncpg would refuse its arguments.
    """

    def __init__(
        self,
        dsn: str | None,
        timeout: float,
        init: Hook | None,
        options: dict[str, Any],
        *,
        keepalive: int = KEEPALIVE,
        pgbouncer: PgBouncerMode = "off",
    ) -> None:
        self._keepalive = keepalive
        self._pgbouncer: PgBouncerMode = pgbouncer
        self._timeout = timeout
        self._init = init
        self.configure(dsn, options)

    def configure(self, dsn: str | None, options: dict[str, Any]) -> None:
        """Connect with these from now on; `timeout` among them is the new one for each host. Raises as the
        constructor does."""
        signature(asyncpg.connect).bind(dsn, **options)  # told now, not by every attempt in the background
        _check(**options)
        timeout = options.pop("timeout", None)
        self._timeout = self._timeout if timeout is None else timeout
        self._dsn = dsn
        self._options = options
        self._password = options.get("password")
        self._tried_password: object = None
        if callable(self._password):
            self._options = {**options, "password": self._ask_for_password}
        self._hosts, role = driver.targets_of(dsn, options)
        self._roles = ("standby", "any") if role == "prefer-standby" else (role,)
        self._approaches: dict[Host, Approach] = {}
        self._answered: tuple[Host, str | None] | None = None
        self.asks_for_writable = role in _WRITABLE_ROLES
        self._refuses_default = role == "read-write"

    @property
    def pooler(self) -> Pooler | None:
        """What is between here and a server, as far as a session has shown it."""
        return next((known.pooler for known in self._approaches.values() if known.pooler), None)

    async def connect(self) -> asyncpg.Connection:
        """A new session, ready to be lent.

        Raises what `asyncpg.connect()` or `init` raises; NoHostServes when several hosts or addresses
        failed, each for a reason of its own.
        """
        connection = await self.reach()
        try:
            driver.tune_socket(connection, self._keepalive)
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
        if connection.is_closed():
            raise asyncpg.ConnectionDoesNotExistError("the connection was closed in the init hook")
        driver.check_transaction_ended(connection, "init")

    async def ask(self, connection: asyncpg.Connection, timeout: float) -> bool:
        """One round trip: whether the server is still of the kind that was asked for, as far as writing
        goes. Raises when the session cannot run a statement now."""
        if not self.asks_for_writable:
            await cleanup.ping(connection, timeout)
            return True
        return not await cleanup.is_read_only(connection, timeout, by_default=self._refuses_default)

    def has_new_password(self) -> bool:
        """Whether the function that gives the password gives another one than at the last attempt; not
        asked of one that is awaited, which may take its time."""
        if self._tried_password is None or isawaitable(self._tried_password) or not callable(self._password):
            return False
        try:
            return bool(self._password() != self._tried_password)
        except Exception:  # noqa: BLE001 - the next attempt will say so
            return False

    def _ask_for_password(self) -> object:
        assert callable(self._password)
        self._tried_password = self._password()
        return self._tried_password

    # -- who is tried, and when --------------------------------------------------------------------

    async def reach(self) -> asyncpg.Connection:
        """A session as the server gives it, without `init`: it may have to wait for a lock."""
        error: Exception | None = None
        for role in self._roles:
            hosts = sorted(self._hosts, key=self._has_not_answered)
            tries = {_name(host): partial(self._try_host, host, role) for host in hosts}
            try:
                connection: asyncpg.Connection = await _first(tries, STAGGER)
            except _NEXT_HOST as failure:
                error = failure
            else:
                return connection
        assert error is not None
        raise error

    async def _try_host(self, host: Host, role: str) -> asyncpg.Connection:
        deadline = asyncio.get_running_loop().time() + self._timeout
        name, port = host
        if not is_name(name):
            return await self._try_address(host, None, role, deadline, set())
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await resolve(name, port)
        except TimeoutError:
            raise TimeoutError(f"the name {name} was not resolved within {self._timeout:g} s") from None
        addresses.sort(key=lambda address: (host, address) != self._answered)
        reached: set[str] = set()

        def tries(addresses: Iterable[str]) -> Tries:
            return {
                f"{_name(host)} [{address}]": partial(
                    self._try_address, host, address, role, deadline, reached
                )
                for address in addresses
            }

        async def more_tries() -> Tries:
            await asyncio.sleep(LOOK_AGAIN)
            with suppress(OSError):
                return tries([address for address in await resolve(name, port) if address not in reached])
            return {}

        # So close together that the last one still has half of the host's time.
        stagger = min(STAGGER, self._timeout / (2 * len(addresses)))
        return await _first(tries(addresses), stagger, more_tries)

    async def _try_address(
        self, host: Host, address: str | None, role: str, deadline: float, reached: set[str]
    ) -> asyncpg.Connection:
        """`reached` gets the address once somebody there has taken the connection."""
        loop = asyncio.get_running_loop()
        try:
            connection = await self._open(host, address, role, deadline, reached)
        except asyncpg.TargetServerAttributeNotMatched as error:
            if self.asks_for_writable:
                raise ReadOnlyServer("the server is read-only") from error
            raise OtherServer(f"the server is not what target_session_attrs={role} asks for") from error
        except TimeoutError as error:
            if str(error):
                raise
            message = f"no answer from {_name(host)} within {self._timeout:g} s"
            raise TimeoutError(message) from None
        if address is not None:
            driver.belong_to(connection, loop, address)
        try:
            await self._refuse_read_only(connection, role, deadline - loop.time())
        except BaseException:
            connection.terminate()
            raise
        self._answered = (host, address)
        return connection

    async def _open(
        self, host: Host, address: str | None, role: str, deadline: float, reached: set[str]
    ) -> asyncpg.Connection:
        """A session as asyncpg opens it; another one if the first shows that a pooler is in between."""
        loop = asyncio.get_running_loop()
        approach = self._approaches.setdefault(host, Approach(self._pgbouncer))
        wanted = self._options.get("server_settings") or {}
        while True:
            options = {
                **approach.arguments(self._options),
                "host": host[0],
                "port": host[1],
                "target_session_attrs": role,
                "timeout": deadline - loop.time(),
            }
            if address is not None:
                options["loop"] = RedirectedLoop(loop, address, reached.add)
            try:
                connection: asyncpg.Connection = await asyncpg.connect(self._dsn, **options)
            except asyncpg.ProtocolViolationError as error:
                if approach.may_send_less(error):
                    continue
                raise
            try:
                async with asyncio.timeout_at(deadline):
                    if await approach.suits(connection, wanted, self._timeout):
                        return connection
            except BaseException:
                connection.terminate()
                raise
            connection.terminate()

    async def _refuse_read_only(self, connection: asyncpg.Connection, role: str, timeout: float) -> None:
        """Ask what a server older than 14, or a pooler, does not report; asyncpg takes that for a no."""
        if role != "read-write" or hasattr(connection.get_settings(), "default_transaction_read_only"):
            return
        if await cleanup.is_read_only(connection, timeout):
            raise ReadOnlyServer("the server is read-only")

    def _has_not_answered(self, host: Host) -> bool:
        return self._answered is None or self._answered[0] != host


def _name(host: Host) -> str:
    return f"{host[0]}:{host[1]}"


async def _first(
    tries: Tries, stagger: float, more_tries: Callable[[], Awaitable[Tries]] | None = None
) -> asyncpg.Connection:
    """The first session that one of these opens; each starts when the one before has failed or has taken
    `stagger` seconds. The others are broken off. `more_tries` is awaited again and again meanwhile, for
    others or for the same once more.

    Raises the only try's own error, NoHostServes with everybody's, or at once what is no reason to
    try elsewhere.
    """
    if len(tries) == 1 and more_tries is None:
        (only,) = tries.values()
        return await only()
    return await _Race(tries, stagger, more_tries).run()


class _Race:
    """One run of `_first()`."""

    def __init__(
        self, tries: Tries, stagger: float, more_tries: Callable[[], Awaitable[Tries]] | None
    ) -> None:
        self._tries = dict(tries)
        self._stagger = stagger
        self._more_tries = more_tries
        self._waiting = list(tries)
        self._under_way: dict[asyncio.Task[asyncpg.Connection], str] = {}
        self._looking: asyncio.Task[Tries] | None = None
        self._reasons: dict[str, Exception] = {}
        self._fatal: Exception | None = None

    async def run(self) -> asyncpg.Connection:
        try:
            while self._begin_next() or self._under_way:
                await self._until_something_ends()
                for task in [task for task in self._under_way if task.done()]:
                    if (winner := self._result_of(task)) is not None:
                        return winner
                if self._looking is not None and self._looking.done():
                    self._tries |= self._looking.result()
                    self._waiting += self._looking.result()
                    self._looking = None
        finally:
            if self._looking is not None:
                self._looking.cancel()
            await _break_off(tuple(self._under_way))
        if self._fatal is None and len(self._reasons) == 1:
            (self._fatal,) = self._reasons.values()
        raise self._fatal or _joined(self._reasons, self._tries)

    def _begin_next(self) -> bool:
        if not self._waiting or self._fatal is not None:
            return False
        name = self._waiting.pop(0)
        self._under_way[asyncio.ensure_future(_run(self._tries[name]))] = name
        return True

    async def _until_something_ends(self) -> None:
        if self._more_tries is not None and self._looking is None:
            self._looking = asyncio.ensure_future(_run(self._more_tries))
        more = self._waiting and self._fatal is None
        await asyncio.wait(
            {*self._under_way, self._looking} if self._looking else self._under_way,
            timeout=self._stagger if more else None,
            return_when=asyncio.FIRST_COMPLETED,
        )

    def _result_of(self, task: asyncio.Task[asyncpg.Connection]) -> asyncpg.Connection | None:
        """What it has opened; None if it failed, and why is known then."""
        if task.cancelled():
            raise asyncio.CancelledError
        error = task.exception()
        name = self._under_way.pop(task)
        if error is None:
            return task.result()
        if not isinstance(error, Exception):
            raise error
        self._reasons[name] = error
        if self._fatal is None and not isinstance(error, _NEXT_HOST):
            self._fatal = error
        return None


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


async def _break_off(tasks: Sequence[asyncio.Task[asyncpg.Connection]]) -> None:
    """Cancel the losers, and cut what one of them has opened all the same."""
    for task in tasks:
        task.add_done_callback(_cut)
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STAGGER)


def _cut(task: asyncio.Task[asyncpg.Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


def _joined(reasons: dict[str, Exception], order: Iterable[str]) -> NoHostServes:
    """Everybody's reason in the order of the tries; those of a name's addresses stand for themselves."""
    flat: dict[str, Exception] = {}
    for name in order:
        error = reasons[name]
        flat |= error.reasons if isinstance(error, NoHostServes) else {name: error}
    return NoHostServes(flat)


def _check(
    command_timeout: object = None,
    connection_class: object = asyncpg.Connection,
    record_class: object = asyncpg.Record,
    **_: object,
) -> None:
    """Refuse what asyncpg would refuse at every connect."""
    if command_timeout is not None and not (
        isinstance(command_timeout, (int, float))
        and not isinstance(command_timeout, bool)
        and command_timeout > 0
    ):
        raise ValueError(f"command_timeout must be above 0 seconds or None, got {command_timeout!r}")
    for name, given, base in (
        ("connection_class", connection_class, asyncpg.Connection),
        ("record_class", record_class, asyncpg.Record),
    ):
        if not (isinstance(given, type) and issubclass(given, base)):
            raise TypeError(f"{name} must be a subclass of asyncpg.{base.__name__}, got {given!r}")
