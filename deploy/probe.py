"""Ask the service in this container: `python -I -S probe.py /readyz`; exit code 0 if it says 200.

For health checks, which run every few seconds: nothing is imported that would make them dear.
"""

import os
import socket
import sys

TIMEOUT = 2.0  # seconds
ADDRESS = ("127.0.0.1", int(os.environ.get("OPS_PORT") or os.environ.get("PORT") or 8000))

try:
    with socket.create_connection(ADDRESS, TIMEOUT) as connection:
        connection.sendall(f"GET {sys.argv[1]} HTTP/1.0\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            status = answer.readline().split()[1:2]
except OSError as error:
    sys.exit(f"no answer: {error}")
if status != [b"200"]:
    sys.exit(f"status {status}")
