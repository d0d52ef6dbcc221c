"""What a request costs: more than in `bench.overload`, so that connections are what is scarce."""

from __future__ import annotations

from bench.overload.work import POOL_SIZE

SERVICE_TIME = 0.1
"""Seconds for which a request keeps a connection busy."""
WORK = f"SELECT pg_sleep({SERVICE_TIME})"
CAPACITY = 0.9 * POOL_SIZE / SERVICE_TIME
"""Requests a second. Between two statements a connection is idle for a moment: of what ten connections could
do without that, a service delivers 0.91 to 0.95 (`bench.overload`)."""
