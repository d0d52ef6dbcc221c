"""Sockets and addresses of sessions, and the hosts that a URL names."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any

from asyncpg import connect_utils

from lifeguard.pool.driver.sessions import Session

_INTERNET = frozenset((socket.AF_INET, socket.AF_INET6))

# Seconds, after the first probe. Linux waits two hours before its first keepalive and a quarter of an hour
# for an acknowledgement; a pool wants to know within the time that a request may take.
KEEPALIVE_INTERVAL = 5
KEEPALIVE_PROBES = 3
TCP_USER_TIMEOUT = 15


def reading(connection: Session) -> Callable[[], bool]:
    """A function that says, in less than a microsecond, whether the server has sent what was not read yet.

    On an idle connection that is mostly its end, which the event loop reads only after the next statement
    has been written (`_transport`). Always False where there is no poll(2).
    """
    sock = connection._transport.get_extra_info("socket")
    if sock is None or not hasattr(select, "poll"):
        return lambda: False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    ask = poll.poll
    return lambda: bool(ask(0))


def tune_socket(connection: Session, keepalive: int) -> None:
    """Let the kernel notice a peer that is gone (`_transport`); asyncpg sets nothing of this.

    `keepalive`: seconds of silence before the first probe. Raises ConnectionResetError if it is gone already.
    """
    sock = connection._transport.get_extra_info("socket")
    if sock is None or sock.family not in _INTERNET:
        return
    if sock.fileno() < 0:
        raise ConnectionResetError("the server closed the connection as soon as it was open")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (
        ("TCP_KEEPIDLE", keepalive),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", TCP_USER_TIMEOUT * 1000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


def belong_to(connection: Session, loop: asyncio.AbstractEventLoop, address: str) -> None:
    """Give a session that was opened through a stand-in for `loop` the loop itself (`_loop`), by which
    asyncpg looks up the current task, and the `address` that was reached.

    A cancel request has to go to the same server (`_addr`). asyncpg verifies a certificate against what it
    connects to (`_params`), so where that is done the request goes to the name.
    """
    connection._loop = loop
    context = connection._params.ssl
    if not context or not context.check_hostname:
        connection._addr = (address, *connection._addr[1:])


def client_address(connection: Session) -> str | None:
    """`host:port` of this end of the connection (`_transport`); None over a Unix socket."""
    sock = connection._transport.get_extra_info("socket")
    if sock is None or sock.family not in _INTERNET:
        return None
    host, port, *_ = sock.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_of(connection: Session) -> tuple[str | None, ssl.SSLObject | None]:
    """The address that was reached, None over a Unix socket, and the TLS of the connection, if it has any
    (`_transport`)."""
    transport = connection._transport
    peer = transport.get_extra_info("peername")
    return peer[0] if isinstance(peer, tuple) else None, transport.get_extra_info("ssl_object")


def targets_of(dsn: str | None, options: dict[str, Any]) -> tuple[list[tuple[str, int]], str]:
    """The hosts that `asyncpg.connect(dsn, **options)` would try, in order, and the role it would ask for.

    A socket's directory is a host; the role is a value of `target_session_attrs`.

    Raises asyncpg.ClientConfigurationError or ValueError when it would refuse its arguments
    (`_parse_connect_dsn_and_args`).
    """
    names = [
        "host",
        "port",
        "user",
        "password",
        "passfile",
        "database",
        "ssl",
        "direct_tls",
        "server_settings",
        "target_session_attrs",
        "krbsrvname",
        "gsslib",
        "service",
        "servicefile",
    ]
    parse: Any = connect_utils
    addresses, parameters = parse._parse_connect_dsn_and_args(
        dsn=dsn, **{name: options.get(name) for name in names}
    )
    hosts: list[tuple[str, int]] = []
    for address in addresses:
        if isinstance(address, str):
            directory, _, port = address.rpartition("/.s.PGSQL.")
            hosts.append((directory, int(port)))
        else:
            hosts.append((address[0], int(address[1])))
    return hosts, parameters.target_session_attrs.value
