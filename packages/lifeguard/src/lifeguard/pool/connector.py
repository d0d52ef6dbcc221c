"""Opening one server session: the hosts, and the addresses of each, tried staggered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from inspect import signature
from typing import Any

import asyncpg

from lifeguard.pool import cleanup, driver
from lifeguard.pool.addresses import RedirectedLoop, is_name, resolve
from lifeguard.pool.config import KEEPALIVE, Hook, PgBouncerMode
from lifeguard.pool.faults import OtherServer, ReadOnlyServer
from lifeguard.pool.passwords import Known, Passwords, split_off_passwords
from lifeguard.pool.poolers import Approach, Pooler
from lifeguard.pool.race import NEXT_HOST, STAGGER, Tries, accompanied, first

# Seconds after which a host that has not served yet is looked up anew: its name may have moved, and where
# nobody takes the connection another try may find somebody sooner than TCP, which doubles its pauses.
LOOK_AGAIN = 1.0
# The same for a lone host that leaves an attempt unanswered in an outage: it may be a proxy that waits for a
# server which is gone, and gives the next connection to another one, or every other one while it believes in
# both. The first attempt goes on: a slow server has its time, and two more logins a second from each pool.
TRY_BESIDE = 0.5
# And for a host that has refused, while another one is silent.
ASK_AGAIN = 0.25
_WRITABLE_ROLES = ("primary", "read-write")

Host = tuple[str, int]


class Connector:
    """Opens sessions with the arguments of `asyncpg.connect()` and runs `init` on each.

    asyncpg gives all hosts of a URL one timeout, so a black hole in front starves the rest, and it tries
    them one after the other. Here every host has `timeout` seconds of its own, its name's resolution and
    all addresses included; the next one is tried as soon as one has failed, or has not answered for a
    quarter of a second. The first that serves is taken, and asked first next time; one that was silent is
    asked last. While one is silent, those that have refused are asked again: a standby may be promoted
    meanwhile. A name is looked up anew as long as none of its addresses has served: it may have moved, or be
    known again.

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
        self._hosts, role = driver.targets_of(dsn, options)
        self._passwords, self._options = split_off_passwords(options)
        self._roles = ("standby", "any") if role == "prefer-standby" else (role,)
        self._approaches: dict[Host, Approach] = {}
        self._answered: tuple[Host, str | None] | None = None
        self._silent: set[Host] = set()
        """Hosts that said nothing when they were last asked, for so long that the next one was."""
        self.asks_for_writable = role in _WRITABLE_ROLES
        self._refuses_default = role == "read-write"

    @property
    def pooler(self) -> Pooler | None:
        """What is between here and a server, as far as a session has shown it."""
        return next((known.pooler for known in self._approaches.values() if known.pooler), None)

    @property
    def hosts(self) -> list[Host]:
        """Those of the URL with their ports, in its order; a socket's directory is one."""
        return self._hosts

    async def connect(self, is_urgent: Callable[[], bool] = lambda: False) -> asyncpg.Connection:
        """A new session, ready to be lent. Where `is_urgent()` a lone host that is silent is asked a second
        time meanwhile.

        Raises what `asyncpg.connect()` or `init` raises; NoHostServes when several hosts or addresses
        failed, each for a reason of its own.
        """
        connection = await self.reach(is_urgent)
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

    async def ask_aside(self) -> None:
        """Ask for a sign of life on a session that ends with the answer."""
        connection = await self.reach()
        try:
            await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    def has_new_password(self) -> bool:
        """Whether a function that gives a password at once gives another one than at the last attempt."""
        return any(passwords.has_changed() for passwords in self._all_passwords())

    async def first_password(self) -> str | None:
        """That of the first host, for a program that connects by itself; None if none is asked for. Raises
        PasswordUnavailable."""
        if self._passwords is None:
            return None
        return await self._passwords.of(*self._hosts[0]).get(self._timeout)

    def due_passwords(self) -> list[Passwords]:
        """Those whose next one should be asked for now."""
        return [passwords for passwords in self._all_passwords() if passwords.is_due]

    async def renew(self, passwords: Passwords) -> None:
        """Ask for the next one, in the time of an attempt to connect. Raises PasswordUnavailable."""
        await passwords.renew(self._timeout)

    def _all_passwords(self) -> set[Passwords]:
        return {self._passwords.of(*host) for host in self._hosts} if self._passwords else set()

    # -- who is tried, and when --------------------------------------------------------------------

    async def reach(self, is_urgent: Callable[[], bool] = lambda: False) -> asyncpg.Connection:
        """A session as the server gives it, without `init`: it may have to wait for a lock."""
        error: Exception | None = None
        several = self._all_passwords()
        # That of all hosts is there before any of them is tried.
        known = {one: await one.get(self._timeout) for one in several} if len(several) == 1 else {}
        for role in self._roles:
            try:
                connection: asyncpg.Connection = await self._reach_one(role, known, is_urgent)
            except NEXT_HOST as failure:
                error = failure
            else:
                return connection
        assert error is not None
        raise error

    async def _reach_one(self, role: str, known: Known, is_urgent: Callable[[], bool]) -> asyncpg.Connection:
        if len(self._hosts) == 1:
            return await accompanied(
                partial(self._try_host, self._hosts[0], role, known), is_urgent, TRY_BESIDE
            )
        hosts = sorted(self._hosts, key=lambda host: (host in self._silent, self._has_not_answered(host)))
        refused: set[Host] = set()

        async def try_host(host: Host) -> asyncpg.Connection:
            refused.discard(host)
            began = asyncio.get_running_loop().time()
            try:
                connection = await self._try_host(host, role, known)
            except (TimeoutError, asyncio.CancelledError):
                if asyncio.get_running_loop().time() - began >= STAGGER:
                    self._silent.add(host)
                raise
            except Exception:
                self._silent.discard(host)
                refused.add(host)
                raise
            self._silent.discard(host)
            return connection

        async def those_that_refused() -> Tries:
            await asyncio.sleep(ASK_AGAIN)
            return {_name(host): partial(try_host, host) for host in refused}

        tries = {_name(host): partial(try_host, host) for host in hosts}
        return await first(tries, STAGGER, those_that_refused)

    async def _try_host(self, host: Host, role: str, known: Known) -> asyncpg.Connection:
        if self._passwords is None:
            return await self._try_name(host, role, self._options)

        async def try_with(password: str | None) -> asyncpg.Connection:
            given = {} if password is None else {"password": password}
            return await self._try_name(host, role, {**self._options, **given})

        return await self._passwords.of(*host).log_in(try_with, self._timeout, known)

    async def _try_name(self, host: Host, role: str, options: dict[str, Any]) -> asyncpg.Connection:
        deadline = asyncio.get_running_loop().time() + self._timeout
        name, port = host
        if not is_name(name):
            return await self._try_address(host, None, role, deadline, set(), options=options)
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await resolve(name, port)
        except TimeoutError:
            raise TimeoutError(f"the name {name} was not resolved within {self._timeout:g} s") from None
        addresses.sort(key=lambda address: (host, address) != self._answered)
        reached: set[str] = set()

        async def try_address(address: str) -> asyncpg.Connection:
            try:
                return await self._try_address(host, address, role, deadline, reached, options=options)
            finally:
                reached.discard(address)  # it has had its say, and may say something else later

        def tries(addresses: Iterable[str]) -> Tries:
            return {f"{_name(host)} [{address}]": partial(try_address, address) for address in addresses}

        async def more_tries() -> Tries:
            await asyncio.sleep(LOOK_AGAIN)
            with suppress(OSError):
                return tries([address for address in await resolve(name, port) if address not in reached])
            return {}

        # So close together that the last one still has half of the host's time.
        stagger = min(STAGGER, self._timeout / (2 * len(addresses)))
        return await first(tries(addresses), stagger, more_tries)

    async def _try_address(
        self,
        host: Host,
        address: str | None,
        role: str,
        deadline: float,
        reached: set[str],
        *,
        options: dict[str, Any],
    ) -> asyncpg.Connection:
        """`reached` gets the address once somebody there has taken the connection."""
        loop = asyncio.get_running_loop()

        def where() -> dict[str, Any]:
            there: dict[str, Any] = {"host": host[0], "port": host[1], "target_session_attrs": role}
            there["timeout"] = deadline - loop.time()
            return there if address is None else {**there, "loop": RedirectedLoop(loop, address, reached.add)}

        approach = self._approaches.setdefault(host, Approach(self._pgbouncer))
        try:
            connection = await approach.open(self._dsn, options, where)
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
