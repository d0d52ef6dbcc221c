"""Addresses to listen on."""

from __future__ import annotations

import errno
import socket


class CannotListen(Exception):
    """The address cannot be used; the message is one line."""


def reserve(host: str, port: int, name: str, *, shared: bool = False) -> socket.socket:
    """Bind an address; connections are refused until the socket listens. Raises CannotListen, which names the
    variable `name`.

    `shared`: let other processes bind it too, if they pass `shared` as well.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CannotListen(explained(error, host, port, name)) from error
    return listener


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def explained(error: OSError, host: str, port: int, name: str) -> str:
    """Say in one line why that address cannot be used; it names the variable `name`."""
    where = f"port {port} of {host}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken: stop what listens there, or set {name}"
    return f"cannot listen on {where}: {error.strerror or error}"
