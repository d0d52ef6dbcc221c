"""Sessions for the doctor, as the service would open them, and what to do where there is none."""

from __future__ import annotations

import ssl
from typing import Any

import asyncpg

from lifeguard.database.connect_options import Role, connect_options, dsn, prepare_session, with_remedy
from lifeguard.database.fault_advice import advice_about
from lifeguard.operations.checks.server import variable_of
from lifeguard.pool import Connector, Fault, NoHostServes, Pooler, fault_of
from lifeguard.pool.faults import (
    CERTIFICATE,
    NO_ANSWER,
    PERMISSION,
    TLS,
    TOO_MANY_CONNECTIONS,
    UNKNOWN_DATABASE,
    UNKNOWN_HOST,
    UNREACHABLE,
    describe_error,
)
from lifeguard.settings import Settings
from lifeguard.settings.dsn import without_secrets

_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Unreachable(Exception):
    """No connection to a database; the message is one line without a secret."""

    def __init__(self, message: str, fault: Fault, advice: str) -> None:
        super().__init__(f"{message}; {advice}")
        self.reason = message
        """Without the advice."""
        self.fault = fault
        self.advice = advice
        """What to do, and to type."""


async def connect(settings: Settings, role: Role, **options: Any) -> tuple[asyncpg.Connection, Pooler | None]:
    """A connection, and what is in between; `options` are asyncpg.connect()'s. Raises Unreachable."""
    url = dsn(settings, role)
    options = {**connect_options(settings, role), **options}
    connector = Connector(
        url,
        settings.pool_connect_timeout,
        prepare_session(settings),
        options,
        keepalive=settings.pool_keepalive,
        pgbouncer=settings.pool_pgbouncer,
    )
    try:
        return await connector.connect(), connector.pooler
    except _ERRORS as error:
        fault = fault_of(error)
        reason = f"{fault.name.replace('_', ' ')}: {type(error).__name__}: {with_remedy(str(error))}"
        advice = _advice(error, fault, settings, role, connector.hosts)
        raise Unreachable(f"{without_secrets(url)}: {reason}", fault, advice) from error


async def connect_anyway(
    settings: Settings, role: Role, **options: Any
) -> tuple[asyncpg.Connection, Pooler | None, bool]:
    """A connection to look around by, what is in between, and whether it is of the kind that the service
    would take. Raises Unreachable."""
    try:
        return *await connect(settings, role, **options), True
    except Unreachable as unreachable:
        if not unreachable.fault.wrong_role:
            raise
        return *await connect(settings, role, target_session_attrs="any", **options), False


_LOOK_AT_CERTIFICATE = (
    "`openssl s_client -starttls postgres -connect {host}:{port} </dev/null | openssl x509 -noout -dates"
    " -subject` shows it"
)
_ADVICE = {
    UNKNOWN_HOST: (
        "`getent hosts {host}` must print an address here: correct the name in {variable}, or this"
        " machine's resolver"
    ),
    UNREACHABLE: (
        "`pg_isready -h {host} -p {port}` from here: is the port in {variable} right, does the server run,"
        " has its listen_addresses that address?"
    ),
    NO_ANSWER: (
        "`nc -vz {host} {port}` from here: if that does not answer either, a firewall drops the packets or"
        " the machine is down; if it does, the server is frozen"
    ),
    CERTIFICATE: (
        f"{_LOOK_AT_CERTIFICATE}; sslrootcert must be the file of who signed it, and the host in"
        " {variable} its name"
    ),
    TLS: "at the server ALTER SYSTEM SET ssl = on, with a certificate; or another sslmode in {variable}",
    UNKNOWN_DATABASE: (
        "`createdb -h {host} -p {port} {database}` and `python -m app migrate`, or correct the name in"
        " {variable}"
    ),
    PERMISSION: "as the database's owner: GRANT CONNECT ON DATABASE {database} TO the user of {variable}",
    TOO_MANY_CONNECTIONS: (
        "as a superuser: SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2"
        " ORDER BY 3 DESC; says who has them; lower POOL_MAX_SIZE, or raise max_connections"
    ),
}
_EXPIRED = f"it has expired: renew it at the server, then SELECT pg_reload_conf(); {_LOOK_AT_CERTIFICATE}"


def _advice(
    error: Exception, fault: Fault, settings: Settings, role: Role, hosts: list[tuple[str, int]]
) -> str:
    """What to do, with the words to type; what the class of the fault says where nothing more is known."""
    host, port = _blamed(error, hosts)
    text = _EXPIRED if _has_expired(error) else _ADVICE.get(fault)
    if text is None:
        return advice_about(describe_error(error), fault.advice, settings)
    database = dsn(settings, role).partition("?")[0].rpartition("/")[2] or "NAME"
    return text.format(host=host, port=port, variable=variable_of(role), database=database)


def _blamed(error: Exception, hosts: list[tuple[str, int]]) -> tuple[str, int]:
    """Of several hosts the first whose fault is the one that is told."""
    if isinstance(error, NoHostServes):
        for name, reason in error.reasons.items():
            if fault_of(reason) is fault_of(error):
                for host, port in hosts:
                    if name.startswith(f"{host}:{port}"):
                        return host, port
    return hosts[0]


def _has_expired(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError) and "expired" in error.verify_message
