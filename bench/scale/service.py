"""The service, `python -m app serve`, but for how many connections of clients it keeps.

That is bounded by 4096, and by three quarters of the files that the process may open (docs/security.md). Here
the first bound is lifted, to see what comes beyond.
"""

from __future__ import annotations

from lifeguard.server import connection

from app.commands import cli

MOST_CONNECTIONS = 1 << 15


def main() -> None:
    connection.MOST_CONNECTIONS = MOST_CONNECTIONS
    cli(prog_name="python -m bench.scale.service")


if __name__ == "__main__":
    main()
