"""What a request costs: the database makes the capacity, not the service or the clients."""

from __future__ import annotations

POOL_SIZE = 10
SERVICE_TIME = 0.02
"""Seconds for which a request keeps a connection busy."""
WORK = f"SELECT pg_sleep({SERVICE_TIME})"
CAPACITY = POOL_SIZE / SERVICE_TIME
"""Requests a second that the database can serve."""
