"""Rate limits per caller, in the memory of one process: so many requests at once, then so many a second."""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from math import ceil
from time import monotonic

from fastapi import APIRouter, Depends, Request
from fastapi_problem.error import StatusProblem
from lifeguard.web import problems


class TooManyRequests(StatusProblem):
    type_, title, status = "too-many-requests", "You ask more often than you may", 429


class RateLimit:
    """A dependency: the routes that have the same one share a caller's allowance.

    GCRA, the leaky bucket with one number per caller: when its allowance will be whole again.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        *,
        most_callers: int = 10_000,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """`most_callers` bounds the memory: then the one seen longest ago is forgotten, and begins anew."""
        self._cost = 1 / per_second
        self._burst = burst * self._cost
        self._most_callers = most_callers
        self._now = now
        self._whole_at: OrderedDict[str, float] = OrderedDict()

    async def __call__(self, request: Request) -> None:
        self.count(caller_of(request))

    def count(self, caller: str) -> None:
        """Count a request of this caller's. Raises TooManyRequests, and then it does not count."""
        now = self._now()
        whole_at = max(self._whole_at.get(caller, now), now) + self._cost
        wait = whole_at - now - self._burst
        if wait > self._cost / 1000:  # not for an error of rounding
            raise TooManyRequests(headers={"Retry-After": str(max(1, ceil(wait)))})
        self._whole_at[caller] = whole_at
        self._whole_at.move_to_end(caller)
        if len(self._whole_at) > self._most_callers:
            self._whole_at.popitem(last=False)

    @property
    def callers(self) -> int:
        return len(self._whole_at)


def caller_of(request: Request) -> str:
    """The client's address; of IPv6 the network, of which a client has 2^64 addresses.

    Behind a proxy it is the client's only if the proxy is in `FORWARDED_ALLOW_IPS`; else it is the proxy's,
    and all clients are one caller. Where users sign in, their id is the better caller.
    """
    host = request.client.host if request.client else ""
    try:
        address = ip_address(host)
    except ValueError:  # a Unix socket
        return host
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or address.packed[:8].hex())
    return str(address)


searches = RateLimit(per_second=1, burst=5)

router = APIRouter()


@router.get("/search", dependencies=[Depends(searches)], responses=problems.documented(TooManyRequests))
async def search(text: str) -> list[str]:
    return [text]
