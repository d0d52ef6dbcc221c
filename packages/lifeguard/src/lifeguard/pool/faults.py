"""Why no connection could be opened: classes of failures, and what to do about each."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from typing import Final

import asyncpg


@dataclass(frozen=True, slots=True)
class Fault:
    """A class of failures to connect."""

    name: str
    advice: str
    permanent: bool = False
    """It does not pass by itself: attempts may be rare, and one event says what to do."""
    wrong_role: bool = False
    """A server answered, and is not of the kind that was asked for."""
    absent: bool = False
    """No server answered: an answer on another connection is news."""


AUTHENTICATION: Final = Fault(
    "authentication", "check user, password and the server's pg_hba.conf", permanent=True
)
PASSWORD: Final = Fault("password", "see why the password's command or function gives none", permanent=True)
PERMISSION: Final = Fault("permission", "GRANT CONNECT on the database to this user", permanent=True)
UNKNOWN_DATABASE: Final = Fault(
    "unknown_database", "create the database, or correct its name", permanent=True
)
CERTIFICATE: Final = Fault(
    "certificate", "check the server's certificate, its name, and sslrootcert", permanent=True
)
TLS: Final = Fault("tls", "turn TLS on at the server, or change sslmode", permanent=True)
PARAMETER: Final = Fault(
    "parameter",
    "the server or the pooler before it refuses a parameter of the session: leave it out",
    permanent=True,
)
POOLER: Final = Fault("pooler", "set pool_mode = transaction in the pooler, or session", permanent=True)
CONFIGURATION: Final = Fault("configuration", "correct the arguments of the connection", permanent=True)
TOO_MANY_CONNECTIONS: Final = Fault(
    "too_many_connections",
    "make the pools smaller, or raise max_connections, the role's limit, or a pooler's max_client_conn",
)
STARTING: Final = Fault("starting", "wait: the server starts, stops or recovers", absent=True)
NO_WRITABLE_SERVER: Final = Fault(
    "no_writable_server", "promote a standby, or wait for the failover", wrong_role=True
)
NO_MATCHING_SERVER: Final = Fault(
    "no_matching_server", "check the servers' roles and target_session_attrs", wrong_role=True
)
NO_ANSWER: Final = Fault("no_answer", "check network and firewall; the server may be frozen", absent=True)
UNKNOWN_HOST: Final = Fault("unknown_host", "check the host's name and the resolver", absent=True)
UNREACHABLE: Final = Fault("unreachable", "check that the server runs and listens there", absent=True)
OTHER: Final = Fault("other", "see the error")

FAULTS = (
    AUTHENTICATION,
    PASSWORD,
    PERMISSION,
    UNKNOWN_DATABASE,
    CERTIFICATE,
    TLS,
    PARAMETER,
    POOLER,
    CONFIGURATION,
    TOO_MANY_CONNECTIONS,
    STARTING,
    NO_WRITABLE_SERVER,
    NO_MATCHING_SERVER,
    OTHER,
    NO_ANSWER,
    UNREACHABLE,
    UNKNOWN_HOST,
)
"""In order: when several hosts fail, the first of these that is among their faults is reported."""


class PasswordUnavailable(ConnectionError):
    """The function or command that gives the password gave none. The message has no password in it."""


class PasswordTimeout(PasswordUnavailable, TimeoutError):
    """It gave none in time."""


# The first that an error is an instance of.
_BY_TYPE: tuple[tuple[type[Exception], Fault], ...] = (
    (PasswordUnavailable, PASSWORD),
    (asyncpg.InvalidAuthorizationSpecificationError, AUTHENTICATION),  # 28*
    (asyncpg.InsufficientPrivilegeError, PERMISSION),  # 42501
    (asyncpg.InvalidCatalogNameError, UNKNOWN_DATABASE),  # 3D000
    (asyncpg.FeatureNotSupportedError, PARAMETER),  # 0A000
    (asyncpg.InvalidParameterValueError, PARAMETER),  # 22023
    (asyncpg.UndefinedObjectError, PARAMETER),  # 42704, "unrecognized configuration parameter"
    (asyncpg.CantChangeRuntimeParamError, PARAMETER),  # 55P02
    (asyncpg.ClientConfigurationError, CONFIGURATION),
    (asyncpg.TooManyConnectionsError, TOO_MANY_CONNECTIONS),  # 53300
    (asyncpg.OperatorInterventionError, STARTING),  # 57*
    (asyncpg.TargetServerAttributeNotMatched, NO_MATCHING_SERVER),
    (ssl.SSLCertVerificationError, CERTIFICATE),
    (socket.gaierror, UNKNOWN_HOST),
    (TimeoutError, NO_ANSWER),
    (asyncpg.PostgresConnectionError, UNREACHABLE),  # 08*
    (asyncpg.InternalClientError, UNREACHABLE),  # the session ended in the middle of the next step
    (OSError, UNREACHABLE),
)


# PgBouncer has one SQLSTATE, 08P01, for nearly all that it says itself. What is not among these is an outage:
# `server login has been failing`, `client_login_timeout (server down)`, `query_wait_timeout`, `pooler is shut
# down`, `server conn crashed?`.
_POOLER_SAYS = (
    (re.compile(r"unsupported (?:options )?startup parameter"), PARAMETER),
    (re.compile(r"no more connections allowed|client connections exceeded"), TOO_MANY_CONNECTIONS),
    (re.compile(r"authentication failed|no such user|login rejected"), AUTHENTICATION),
    (re.compile(r"no such database"), UNKNOWN_DATABASE),
)


class StatementPooling(asyncpg.ProtocolViolationError):
    """A pooler in between allows no transactions."""


class UnsupportedOptions(asyncpg.ProtocolViolationError):
    """A pooler in between drops settings that come as `options`."""


class OtherServer(asyncpg.TargetServerAttributeNotMatched, ConnectionError):
    """The server answers, and is not of the kind that was asked for (a ConnectionError like the others that
    keep a connection from being made)."""


class ReadOnlyServer(OtherServer):
    """The server answers, and takes no writes."""


class NoHostServes(ConnectionError):
    """None of several hosts, or of a name's addresses, serves. The message has each one's own reason."""

    def __init__(self, reasons: dict[str, Exception]) -> None:
        super().__init__("; ".join(f"{host}: {describe_error(error)}" for host, error in reasons.items()))
        self.reasons = reasons
        """By `host:port`, with the address in brackets where a name has several."""


def fault_of(error: Exception) -> Fault:
    """The class of a failure to connect; of several hosts the most telling one's."""
    if isinstance(error, NoHostServes):
        faults = [fault_of(reason) for reason in error.reasons.values()]
        return min(faults, key=FAULTS.index)
    if isinstance(error, asyncpg.ProtocolViolationError):
        return _said_by_pooler(error)
    if isinstance(error, ReadOnlyServer):
        return NO_WRITABLE_SERVER
    if (fault := _of_tls(error)) is not None:
        return fault
    return next((fault for kind, fault in _BY_TYPE if isinstance(error, kind)), OTHER)


def _of_tls(error: Exception) -> Fault | None:
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return CERTIFICATE  # the server refuses the client's
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return TLS
    return None


def _said_by_pooler(error: asyncpg.ProtocolViolationError) -> Fault:
    if isinstance(error, StatementPooling):
        return POOLER
    said = str(error)
    return next((fault for words, fault in _POOLER_SAYS if words.search(said)), UNREACHABLE)


def refuses_startup_parameter(error: Exception) -> bool:
    """Whether a pooler does not take a setting that came with the connect."""
    return isinstance(error, asyncpg.ProtocolViolationError) and fault_of(error) is PARAMETER


def stays(error: Exception) -> bool:
    """Whether it passes at no host by itself, so that trying again soon is no use."""
    if isinstance(error, NoHostServes):
        return all(stays(reason) for reason in error.reasons.values())
    return fault_of(error).permanent


def finds_standby(error: Exception) -> bool:
    """Whether a server has answered that takes no writes."""
    if isinstance(error, NoHostServes):
        return any(finds_standby(reason) for reason in error.reasons.values())
    return isinstance(error, ReadOnlyServer)


def is_same(error: Exception, other: Exception | None) -> bool:
    """Whether they say the same; hosts may have been tried in another order."""
    return other is not None and _parts(error) == _parts(other)


def _parts(error: Exception) -> list[str]:
    if isinstance(error, NoHostServes):
        return sorted(f"{host} {describe_error(reason)}" for host, reason in error.reasons.items())
    return [describe_error(error)]


def sqlstate_of(error: BaseException) -> str | None:
    """The server's SQLSTATE, if it has said one: asyncpg wraps its last words in an 08003 of its own."""
    code: str | None = getattr(error.__cause__, "sqlstate", None) or getattr(error, "sqlstate", None)
    return code


def is_fatal(error: BaseException) -> bool:
    """Whether the server has said that it ends the session with this."""
    said = error.__cause__ or error
    severity = getattr(said, "severity_en", None) or getattr(said, "severity", None)
    return severity in {"FATAL", "PANIC"}


def describe_error(error: BaseException) -> str:
    """One line: class and first line of the message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
