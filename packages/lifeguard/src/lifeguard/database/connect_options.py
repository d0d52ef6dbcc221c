"""The arguments of every connection that this service makes: DSN, options, session settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Literal
from urllib.parse import unquote_plus, urlsplit

import asyncpg
from pydantic import SecretStr

from lifeguard.database import tls
from lifeguard.database.conninfo import ConnInfo
from lifeguard.database.passwords import PasswordSource
from lifeguard.pool import Connector, PoolConfig, is_through_pooler
from lifeguard.pool.driver import KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, TCP_USER_TIMEOUT
from lifeguard.settings import Settings, SettingsError
from lifeguard.settings.dsn import server_settings, without_server_settings

Role = Literal["primary", "replica"]

# Which server to choose when a URL does not say: writes need the primary, also behind one name that moves at
# a failover.
_WANTED = "read-write"

# Milliseconds. A busy backend looks this often whether its client is still there, so that a killed
# service does not keep its locks until the statement ends.
_CLIENT_CHECK_INTERVAL = 1000
_CLIENT_CHECK_SINCE = 14  # PostgreSQL
_USER_TIMEOUT_SINCE = 12

_REFUSES_STARTUP_PARAMETERS = "unsupported startup parameter"
_REMEDY = "a pooler is in between: POOL_PGBOUNCER=auto leaves out what it refuses"


def dsn(settings: Settings, role: Role = "primary") -> str:
    """The URL of a database, as the driver is to get it: settings of the session in it are among the
    `connect_options()`; of a replica with the settings that `each_replica()` gives. Raises SettingsError when
    it is not set."""
    return without_server_settings(_url(settings, role))


def _url(settings: Settings, role: Role) -> str:
    secret: SecretStr | None = getattr(settings, _variable(role).lower())
    if secret is None:
        raise SettingsError(f"{_variable(role)}: required here")
    return secret.get_secret_value()


def each_replica(settings: Settings) -> list[Settings]:
    """The settings for each replica: `DATABASE_REPLICA_URL` is the URL of that one and names one host."""
    return [
        settings.model_copy(update={"database_replica_url": SecretStr(url)}) for url in settings.replica_urls
    ]


def check(settings: Settings) -> None:
    """Raise SettingsError, a line for each fault, if no connection could ever be made with them.

    It finds what the variables alone do not show: files that they name, and what asyncpg takes from
    elsewhere (`PG*` variables, service and password files, HOME).
    """
    faults = list(_faults_of(settings, "primary"))
    for one in each_replica(settings):
        faults += _faults_of(one, "replica")
    if faults:
        raise SettingsError("\n".join(dict.fromkeys(faults)))


def _faults_of(settings: Settings, role: Role) -> Iterator[str]:
    variable = _variable(role)
    url = dsn(settings, role)
    if settings.pool_pgbouncer == "on" and "options" in settings_in_url(settings, role):
        yield f"{variable}: must not have options with POOL_PGBOUNCER=on; write ?name=value"
    try:
        conninfo = ConnInfo(url, variable)
    except SettingsError as error:
        yield str(error)
        return
    faults = list(conninfo.faults(password_from_elsewhere=PasswordSource(settings).is_there))
    faults += tls.faults(conninfo)
    yield from faults
    if not faults:
        try:
            Connector(url, 1, None, connect_options(settings, role), keepalive=1)
        except Exception as error:  # noqa: BLE001 - asyncpg lets through whatever it meets
            # Its own words may hold a secret.
            yield f"{variable}: cannot be used by asyncpg ({type(error).__name__})"


def _variable(role: Role) -> str:
    return "DATABASE_URL" if role == "primary" else "DATABASE_REPLICA_URL"


def settings_in_url(settings: Settings, role: Role = "primary") -> dict[str, str]:
    """The settings of the session that the URL of a database has, such as search_path."""
    return server_settings(_url(settings, role))


def connect_options(
    settings: Settings,
    role: Role = "primary",
    *,
    other: Mapping[str, str] | None = None,
    passwords: PasswordSource | None = None,
) -> dict[str, Any]:
    """What `asyncpg.connect()` takes besides the URL (typed Any there as well); `other` settings of the
    session win over the service's, `passwords` over those that the settings name.

    The timeouts go with the connection's first packet, so not even its first statement runs without. A pooler
    may take none of them; then they come with each transaction.
    """
    options: dict[str, Any] = {
        "command_timeout": settings.command_timeout,
        "server_settings": {**settings_in_url(settings, role), **_own_settings(settings, other)},
    }
    conninfo = ConnInfo(dsn(settings, role), _variable(role))
    if (context := tls.context(conninfo)) is not None:
        options["ssl"] = context
    url = _url(settings, role)
    if role == "primary" and not _names_a_role(url):
        options["target_session_attrs"] = _WANTED
    source = passwords or PasswordSource(settings)
    is_told = conninfo.get("password") is not None
    if (password := source.of(conninfo.user, is_told=is_told)) is not None:
        options["password"] = password
    return options


def pool_config(settings: Settings, role: Role = "primary") -> PoolConfig:
    """The settings of a pool: `pool_max_size` is its `max_size`, and so on by name."""
    named = {
        setting.name: getattr(settings, f"pool_{setting.name}")
        for setting in fields(PoolConfig)
        if f"pool_{setting.name}" in type(settings).model_fields
    }
    if named["max_size"] == "auto":  # it grows once the server has said how many sessions it has
        named["max_size"] = settings.pool_min_size
    if settings.pool_instances == "auto":  # one until its share is known
        named |= {"max_size": 1, "min_size": min(1, settings.pool_min_size)}
    own = {"name": role, "max_size": max(1, named["max_size"]), "init": prepare_session(settings)}
    if role == "replica":  # its reads are answered by the primary meanwhile
        own["outage_patience"] = 0.0
    return PoolConfig(**{**named, **own})


def session_limits(settings: Settings) -> dict[str, float]:
    """The limits that the server itself enforces, in seconds.

    Not among them: `transaction_timeout` (17+) and `idle_session_timeout` (14+) end the session and
    not the statement; every step of a transaction has its bound already, and the pool ages idle ones.
    """
    return {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, 1 at least: to the server 0 means no limit."""
    return max(1, round(seconds * 1000))


def prepare_session(settings: Settings) -> Callable[[asyncpg.Connection], Awaitable[None]]:
    """What is done with every new session and after each reset (the pool's `init`): one round trip.

    It has the server notice when its client is gone. Through a pooler that client is the pooler, which has
    its own settings for that; there nothing is done.
    """

    async def look_after_client(connection: asyncpg.Connection) -> None:
        if is_through_pooler(connection):
            return
        statements = looking_after_client(connection.get_server_version().major, settings.pool_keepalive)
        try:
            await connection.execute(statements)
        except asyncpg.PostgresError:
            # On Windows and old macOS a server cannot look; what resembles PostgreSQL may know none of it.
            if connection.is_closed():
                raise
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")

    return look_after_client


def looking_after_client(server: int, keepalive: int) -> str:
    """Statements that have the server end a session whose client fell silent, idle or in a statement.

    Not given at connect: an older server would refuse the connection. Over a unix socket PostgreSQL takes
    and ignores them. The last may fail on some platforms, when the others are committed already.
    """
    settings = {
        "tcp_keepalives_idle": keepalive,
        "tcp_keepalives_interval": KEEPALIVE_INTERVAL,
        "tcp_keepalives_count": KEEPALIVE_PROBES,
    }
    if server >= _USER_TIMEOUT_SINCE:
        settings["tcp_user_timeout"] = TCP_USER_TIMEOUT * 1000
    statements = ["BEGIN", *(f"SET {name} = {value}" for name, value in settings.items()), "COMMIT"]
    if server >= _CLIENT_CHECK_SINCE:
        statements.append(f"SET client_connection_check_interval = {_CLIENT_CHECK_INTERVAL}")
    return "; ".join(statements)


def with_remedy(reason: str) -> str:
    """Say why no connection can be made and, where a variable would help, which."""
    return f"{reason} ({_REMEDY})" if _REFUSES_STARTUP_PARAMETERS in reason else reason


def quoted(text: str) -> str:
    """`text` as an SQL literal, right under any `standard_conforming_strings` (as PQescapeLiteral)."""
    literal = "'" + text.replace("'", "''") + "'"
    return " E" + literal.replace("\\", "\\\\") if "\\" in text else literal


def _own_settings(settings: Settings, other: Mapping[str, str] | None) -> dict[str, str]:
    limits = {name: str(milliseconds(limit)) for name, limit in session_limits(settings).items()}
    return {"application_name": settings.service_name, **limits, **(other or {})}


def _names_a_role(url: str) -> bool:
    """Whether the URL says which servers it accepts, or that sessions are read-only."""
    query = unquote_plus(urlsplit(url).query)
    return "target_session_attrs=" in query or "default_transaction_read_only=" in query
