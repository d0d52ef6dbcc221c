"""For pytest: real PostgreSQL servers, a database per test, and faults. Never imported in production.

The fixtures, which pytest finds by itself where `lifeguard-pg[testing]` is installed, are in `plugin`.
"""

from lifeguard.testing.proxy import Link, Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.standby import Replication
from lifeguard.testing.waiting import eventually

__all__ = ["Link", "PostgresServer", "Proxy", "Replication", "eventually"]
