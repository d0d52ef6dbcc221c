"""In which lane of the pool a request borrows, and how important it is.

Nothing has to be said: the requests of a route are a lane, by its template, each method for itself (HEAD with
GET). What is slow there fills that lane, and leaves the others theirs. A route, a router or an app may say
more:

    @router.get("/summary", dependencies=[lane("reports", at_most=4)])   several routes, one lane, with limits
    @router.post("/transfers", dependencies=[lane(priority="critical")])
    APIRouter(dependencies=[lane(of=tenant)])                            a lane for each tenant

Of several that speak for a route the one nearest to its endpoint counts: one for the lane with its limits,
one for the priority. A client may lower the priority by the header `X-Request-Priority`, and never raise it.

What a request borrows when its answer is complete (background tasks) is in a lane beside that of its route,
with the priority `background`: nobody waits for it.

Names that `of` gives come from outside. However many there are, the pool keeps a bounded number of them
apart. A new one shares a lane with other new ones until it has been served for some time.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic
from typing import Any, ClassVar, NamedTuple, get_args
from uuid import UUID

import structlog
from fastapi import Depends, Request, params

from lifeguard.database import Database
from lifeguard.pool import OutsideLane, Priority
from lifeguard.web.routes import WEBSOCKET, Routing, Served

LONGEST_NAME = 64
"""Characters of a lane's name. Of a longer one from outside a digest takes the place of the end."""

TENANTS = "tenant"
"""In front of names from outside where `lane(of=...)` has none: a client must not pass for a route's lane, or
for that of another's work after its answers, by a name that it makes up."""

_PRIORITIES: tuple[Priority, ...] = get_args(Priority)
_BY_HEADER: Mapping[bytes, Priority] = {name.encode("ascii"): name for name in _PRIORITIES}
_LOWERED: Mapping[tuple[Priority, Priority | None], Priority] = {
    **{(said, None): said for said in _PRIORITIES},
    **{
        (said, wanted): max(said, wanted, key=_PRIORITIES.index)
        for said in _PRIORITIES
        for wanted in _PRIORITIES
    },
}
_METHODS: Mapping[str, str] = {
    **{method: method for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", WEBSOCKET)},
    "HEAD": "GET",
}
_OTHER_METHODS = "OTHER"  # a route may take any method, and there are as many as clients think of
_DIGEST = 8  # bytes
# Seconds between two log lines about the `of` of one route: clients may have it fail as often as they like.
_REPORT_INTERVAL = 60.0

_log = structlog.get_logger("lifeguard.lanes")


class LanesDoNotFit(Exception):
    """Limits of a lane that contradict each other, or the pool; the message is one line."""


class Limits(NamedTuple):
    """What a pool is told of a lane."""

    at_most: int | None = None
    at_least: int = 0
    weight: float = 1.0


_NO_LIMITS = Limits()


def lane(
    name: str | None = None,
    *,
    at_most: int | None = None,
    at_least: int = 0,
    weight: float = 1.0,
    priority: Priority | None = None,
    of: Callable[[Request], str | int | UUID | None] | None = None,
) -> params.Depends:
    """Make a dependency that says in which lane the requests of a route, a router or an app borrow.

    `name`: routes with the same name share a lane. Without one, each route keeps its own.

    `at_most`, `at_least`: connections that the lane may have in use, and that are kept for it, in each pool
    of this process. `weight`: its share where lanes wait for each other. Where a name is given several times,
    its limits are given once, or are the same.

    `priority`: `critical`, `normal` (what a route is if nothing is said) or `background`.

    `of`: gives the name of a lane within this one, for instance the tenant's, or None if there is none. It is
    called for each request, before its dependencies, and sees its head, not its body. So it is to be quick,
    and is no coroutine function. What it raises, or gives that is no name, is logged, and the request borrows
    in the lane that it would have without `of`. That is all it decides: whether somebody is that tenant is
    for the route to check. Tenants have no limits of their own, they share fairly. Names are shown to
    operators and in metrics, so they are no secrets.

    Raises ValueError and TypeError for what makes no sense.
    """
    _check_name(name)
    _check_limits(at_most, at_least, weight)
    if priority is not None and priority not in _PRIORITIES:
        raise ValueError(f"priority={priority!r}: one of {', '.join(_PRIORITIES)}")
    limits = Limits(at_most, at_least, float(weight))
    if of is not None:
        _check_of(of, limits)
    dependency: params.Depends = Depends(_Lane(name, limits, priority, of))
    return dependency


def _check_name(name: str | None) -> None:
    if name is None:
        return
    if not isinstance(name, str):
        raise TypeError(f"lane({name!r}): a name is a text")
    if not (name.isprintable() and 0 < len(name.strip()) <= len(name) <= LONGEST_NAME):
        raise ValueError(f"lane({name!r}): a name has from 1 to {LONGEST_NAME} printable characters")


def _check_limits(at_most: int | None, at_least: int, weight: float) -> None:
    for what, count in (("at_most", at_most), ("at_least", at_least)):
        if count is not None and type(count) is not int:
            raise TypeError(f"lane({what}={count!r}): a number of connections")
    if at_most is not None and at_most < 1:
        raise ValueError(f"lane(at_most={at_most}): 1 connection or more")
    if at_least < 0 or (at_most is not None and at_least > at_most):
        raise ValueError(f"lane(at_least={at_least}): from 0 to at_most")
    if not 0 < weight < math.inf:
        raise ValueError(f"lane(weight={weight}): above 0, and finite")


def _check_of(of: Callable[[Request], object], limits: Limits) -> None:
    if not callable(of):
        raise TypeError(f"lane(of={of!r}): a function of the request")
    if any(map(inspect.iscoroutinefunction, (of, type(of).__call__))):
        raise TypeError(f"lane(of={of!r}): it is called before the request is begun, and cannot be awaited")
    if limits != _NO_LIMITS:
        raise ValueError(
            "lane(of=...): nobody knows its lanes beforehand, so they have no limits of their own"
        )


@dataclass(frozen=True)
class _Lane:
    does_nothing: ClassVar = True  # when it is called
    name: str | None
    limits: Limits
    priority: Priority | None
    of: Callable[[Request], object] | None

    async def __call__(self) -> None:
        """Do nothing: what is said here is read before the endpoint is called."""

    @property
    def says_which(self) -> bool:
        """Whether it says more than a priority."""
        return self.name is not None or self.of is not None or self.limits != _NO_LIMITS


class Place(NamedTuple):
    """Where a request borrows."""

    lane: Hashable
    priority: Priority
    later: Hashable
    """The lane of what it does when its answer is complete."""


class _Declared(NamedTuple):
    """What is known of the requests of a route and method before there is one."""

    place: Place
    lowered: Mapping[Priority | None, Place]
    """By what the client has said."""
    of: Callable[[Request], object] | None
    prefix: str
    """In front of the names that `of` gives."""


class Lanes:
    """Knows where requests borrow, and tells the pools of the limits that were declared."""

    def __init__(self, routing: Routing, database: Database) -> None:
        self._routing = routing
        self._database = database
        self._limits: dict[str, Limits] = {}
        self._reported: dict[str, float] = {}
        self._nowhere = _declared("none", None, "GET")

    def declare_all(self) -> None:
        """Tell the pools of all limits; raises LanesDoNotFit. Those of routes that are added later are told
        when they are first asked for."""
        for served in self._routing.all_served():
            for method in served.methods or ("GET",):
                self._limit(served, _METHODS.get(method, _OTHER_METHODS))

    def place(self, served: Served | None, method: str, wanted: Priority | None, scope: Any) -> Place:
        """Where a request of `method` for `served` borrows, whose client has said `wanted`.

        `scope` is its scope, or a function that makes one of what is known of it.
        """
        declared = self._declared(served, method) if served is not None else self._nowhere
        place = declared.lowered[wanted]
        if declared.of is None or served is None:
            return place
        return self._outside(declared, place, served, scope() if callable(scope) else scope)

    def has_tenants(self, served: Served, method: str) -> bool:
        """Whether `of` has to be asked for the lane."""
        return self._declared(served, method).of is not None

    def place_of(self, scope: Any, wanted: Priority | None) -> Place:
        """Where the request or handshake of this scope borrows. Ask before the router has begun."""
        method = scope.get("method", WEBSOCKET)
        if method == "HEAD":  # no choice is kept: it may be served as a GET yet
            served = self._routing.find(scope) or self._routing.find({**scope, "method": "GET"})
        else:
            served = self._routing.choice(scope).served
        return self.place(served, method, wanted, scope)

    def _declared(self, served: Served, method: str) -> _Declared:
        method = _METHODS.get(method, _OTHER_METHODS)
        declared: _Declared | None = served.noted.get(method)
        if declared is None:
            try:
                self._limit(served, method)
            except LanesDoNotFit as error:  # too late to refuse the start: the route was added after it
                _log.error("lane_not_limited", route=served.template, reason=str(error))
            declared = served.noted[method] = _declared(
                served.place, _said(served), method, _priority(served)
            )
        return declared

    def _limit(self, served: Served, method: str) -> None:
        said = _said(served)
        if said is None or said.limits == _NO_LIMITS:
            return
        name = _own_name(said, served.place, method)
        known = self._limits.setdefault(name, said.limits)
        if known != said.limits:
            both = f"{_told(known)} and, at {served.place}, {_told(said.limits)}"
            raise LanesDoNotFit(f"the lane {name!r} has {both}")
        try:
            self._database.set_lane(name, **said.limits._asdict())
        except ValueError as error:
            raise LanesDoNotFit(f"the lane {name!r} of {served.place}: {error}") from error

    def _outside(self, declared: _Declared, place: Place, served: Served, scope: Mapping[str, Any]) -> Place:
        """The lane that `of` gives; the route's where it gives none."""
        assert declared.of is not None
        # A handshake is a GET. Without `receive` there is no body to wait for.
        known = {**scope, "type": "http", "method": scope.get("method", "GET")}
        try:
            known["path_params"] = served.path_params(scope)
            name = declared.of(Request(known))
            if name is None:
                return place
            name = _name_of(name)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no reason to turn the request away
            self._report(served, error)
            return place
        lane = f"{declared.prefix}{name}"
        return Place(OutsideLane(lane), place.priority, OutsideLane(f"after {lane}"))

    def _report(self, served: Served, error: Exception) -> None:
        now = monotonic()
        if now - self._reported.get(served.place, -math.inf) < _REPORT_INTERVAL:
            return
        self._reported[served.place] = now
        _log.error("lane_not_found", route=served.place, exc_info=error)


def priority_of(value: bytes) -> Priority | None:
    """Read X-Request-Priority; None for what is no priority."""
    return _BY_HEADER.get(value)


NO_PRIORITY = f"X-Request-Priority must be one of {', '.join(_PRIORITIES)}."


def _said(served: Served) -> _Lane | None:
    """What is said about the lane of a route, nearest to its endpoint."""
    said = (call for call in reversed(served.asks) if isinstance(call, _Lane))
    return next((one for one in said if one.says_which), None)


def _priority(served: Served) -> Priority:
    said = (call for call in reversed(served.asks) if isinstance(call, _Lane))
    return next((one.priority for one in said if one.priority is not None), "normal")


def _own_name(said: _Lane | None, place: str, method: str) -> str:
    return said.name if said is not None and said.name is not None else f"{method} {place}"


def _declared(place: str, said: _Lane | None, method: str, priority: Priority = "normal") -> _Declared:
    name = _own_name(said, place, method)
    prefix = f"{said.name if said is not None and said.name is not None else TENANTS}/"
    places = {
        wanted: Place(name, _LOWERED[priority, wanted], f"after {name}") for wanted in (None, *_PRIORITIES)
    }
    return _Declared(places[None], places, said.of if said is not None else None, prefix)


def _name_of(name: object) -> str:
    """What `of` has given, as a name: bounded, and fit for a log line. Raises TypeError if it is none."""
    if not isinstance(name, (str, int, UUID)):
        if inspect.iscoroutine(name):
            name.close()
        raise TypeError(f"the `of` of a lane gives a text, an int, a UUID or None, not {type(name).__name__}")
    text = str(name)
    if not text.isprintable():
        text = text.encode("unicode_escape", "backslashreplace").decode("ascii")
    if len(text) <= LONGEST_NAME:
        return text
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).hexdigest()
    return f"{text[: LONGEST_NAME - len(digest) - 3]}...{digest}"


def _told(limits: Limits) -> str:
    return ", ".join(f"{name}={value}" for name, value in limits._asdict().items())
