"""What tests do with a pool again and again."""

from urllib.parse import urlsplit

from lifeguard.pool import Lease, Pool
from lifeguard.testing.proxy import HOST, Link, Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually


async def pid_of_next(pool: Pool) -> int:
    """Borrow and return; the backend that was lent."""
    async with pool.acquire() as lease:
        return lease.get_server_pid()


async def borrow_all(pool: Pool, number: int) -> list[Lease]:
    return [await pool.acquire() for _ in range(number)]


async def waiting(pool: Pool, number: int) -> None:
    """Wait until so many borrowers are in the queue."""
    await eventually(lambda: pool.stats().waiting == number)


async def link_of(lease: Lease, proxy: Proxy) -> Link:
    """The link through the proxy that this connection uses."""
    return proxy.link_from(await lease.fetchval("SELECT inet_client_port()"))


def on_ports(server: PostgresServer, *ports: int) -> str:
    """The server's URL with these ports of this machine instead of its own, and libpq's default for TLS."""
    parts = urlsplit(server.dsn())
    login = parts.netloc.rpartition("@")[0]
    hosts = ",".join(f"{HOST}:{port}" for port in ports)
    return parts._replace(netloc=f"{login}@{hosts}", query="sslmode=prefer").geturl()
