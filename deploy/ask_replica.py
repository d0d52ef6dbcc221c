"""Whether the service in this container is ready, and its version: `200 1.4.0`.

The scripts of deploy/ run it inside the container, from standard input: that works with every image, and
with operators' routes on a port that nobody else reaches.
"""

import os
import re
import socket

TIMEOUT = 2.0  # seconds
ADDRESS = ("127.0.0.1", int(os.environ.get("OPS_PORT") or os.environ.get("PORT") or 8000))


def ask(path: str) -> tuple[str, str]:
    """The status and the whole answer."""
    with socket.create_connection(ADDRESS, TIMEOUT) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            text = answer.read().decode(errors="replace")
    return (text.split(maxsplit=2)[1:2] or ["0"])[0], text


try:
    status, _ = ask("/readyz")
    version = re.search(r'service_version="([^"]*)"', ask("/metrics")[1])
except OSError:
    status, version = "0", None
print(status, version[1] if version else "unknown")
