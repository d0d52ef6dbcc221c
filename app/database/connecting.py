"""How this service reaches its databases: the arguments of every connection it makes."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Literal
from urllib.parse import parse_qs, unquote_plus, urlsplit

import asyncpg
from pydantic import SecretStr

from app.environment import read_secret
from app.settings import Settings, SettingsError

Role = Literal["primary", "replica"]

# Whom to talk to when a URL does not say: writes need the primary, also where one name stands before a
# failover; of several hosts, reads rather leave it alone.
_WANTED = {"primary": "read-write", "replica": "prefer-standby"}

# What libpq takes in a URL and asyncpg would hand on to the server as a setting, which then refuses
# every connection. (https://www.postgresql.org/docs/18/libpq-connect.html, section 32.1.2)
_LIBPQ_ONLY = """
channel_binding connect_timeout fallback_application_name gssdelegation gssencmode hostaddr keepalives
keepalives_count keepalives_idle keepalives_interval load_balance_hosts max_protocol_version
min_protocol_version oauth_client_id oauth_client_secret oauth_issuer oauth_scope replication
require_auth requirepeer requiressl scram_client_key scram_server_key servicefile sslcertmode
sslcompression sslkeylogfile sslsni tcp_user_timeout
"""
_INSTEAD = {"connect_timeout": "POOL_CONNECT_TIMEOUT is there for that"}

# Milliseconds. A busy backend looks this often whether its client is still there, so that a killed
# service does not keep its locks until the statement ends.
_CLIENT_CHECK_INTERVAL = 1000
_CLIENT_CHECK_SINCE = (14,)  # PostgreSQL


def dsn(settings: Settings, role: Role = "primary") -> str:
    """The URL of a database.

    Raises SettingsError when it is not set, or asks for what only libpq can do: a line for each fault.
    """
    name = "database_url" if role == "primary" else "database_replica_url"
    secret: SecretStr | None = getattr(settings, name)
    if secret is None:
        raise SettingsError(f"{name.upper()}: required here")
    url = secret.get_secret_value()
    given = parse_qs(urlsplit(url).query, keep_blank_values=True)
    faults = [
        f"{name.upper()}: asyncpg does not know libpq's {unknown}; {_INSTEAD.get(unknown, 'leave it out')}"
        for unknown in sorted(given.keys() & _LIBPQ_ONLY.split())
    ]
    if faults:
        raise SettingsError("\n".join(faults))
    return url


def connect_options(settings: Settings, role: Role = "primary") -> dict[str, Any]:
    """What `asyncpg.connect()` takes besides the URL (typed Any there as well).

    The timeouts go with the connection's first packet, so not even its first statement runs without.
    """
    limits = {name: str(milliseconds(limit)) for name, limit in session_limits(settings).items()}
    options: dict[str, Any] = {
        "command_timeout": settings.command_timeout,
        "server_settings": {"application_name": settings.service_name, **limits},
    }
    url = dsn(settings, role)
    if not _names_a_role(url) and (role == "primary" or _names_several_hosts(url)):
        options["target_session_attrs"] = _WANTED[role]
    if settings.database_password_file is not None:
        # Called at every connect, so that a rotated password is picked up.
        options["password"] = partial(read_secret, settings.database_password_file)
    return options


def session_limits(settings: Settings) -> dict[str, float]:
    """What the server itself puts an end to, in seconds.

    Not among them: `transaction_timeout` (17+) and `idle_session_timeout` (14+) end the session and
    not the statement; every step of a transaction has its bound already, and the pool ages idle ones.
    """
    return {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }


def milliseconds(seconds: float) -> int:
    """As the server wants it, to whom 0 would mean no limit at all."""
    return max(1, round(seconds * 1000))


async def look_after_clients(connection: asyncpg.Connection) -> None:
    """Have the server notice when its client is gone (the pool's `init`, one round trip).

    Not given at connect: a server older than 14 would refuse the connection.
    """
    if connection.get_server_version() < _CLIENT_CHECK_SINCE:
        return
    with suppress(asyncpg.InvalidParameterValueError):  # on Windows and old macOS it cannot look
        await connection.execute(f"SET client_connection_check_interval = {_CLIENT_CHECK_INTERVAL}")


def _names_a_role(url: str) -> bool:
    """Whether the URL says which servers will do, or that this service shall not write anyway."""
    query = unquote_plus(urlsplit(url).query)
    return "target_session_attrs=" in query or "default_transaction_read_only=" in query


def _names_several_hosts(url: str) -> bool:
    parts = urlsplit(url)
    return "," in (parts.netloc.rpartition("@")[2] or parse_qs(parts.query).get("host", [""])[-1])
