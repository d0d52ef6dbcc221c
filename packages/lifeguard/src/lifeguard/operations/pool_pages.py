"""The pools for people: numbers, and who holds a connection now."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import ConfigDict

from lifeguard.database import LaneReport
from lifeguard.observability import PoolNumbers, Scrubber, numbers, rounded, shown_name
from lifeguard.operations.history import DIGITS
from lifeguard.operations.report import Report
from lifeguard.operations.state import state_of
from lifeguard.pool import LeaseInfo
from lifeguard.web import problems

router = APIRouter(tags=["pool"])

_bearer = HTTPBearer(auto_error=False, description="OPS_TOKEN")


class Breaker(Report):
    """`transitions` is how often each state was entered."""

    state: str
    transitions: Mapping[str, int]


class Replica(Report):
    """`serves` is whether reads go there; `standing` what it was found to be when it was last asked:
    `current`, `behind`, `silent`, `unmeasured` (no standby: read as it is), `promoted`, `primary` (one of
    several that is the primary itself) or `unknown` (not asked yet, or asleep). `obstacle` is why it is not
    read, `repeated` how many reads it has cancelled that the primary answered, `host` where it is."""

    serves: bool
    standing: str
    lag_seconds: float | None
    lag_bytes: int | None
    obstacle: str
    repeated: int
    host: str


class HangingLane(Report):
    """A lane that has held more than half of a pool for more than a second, or whose breaker is not closed.
    `sessions` is how many of them do what at the server: wait for a lock, run a statement, nothing."""

    lane: str
    holds: int
    held_for: float
    sessions: Mapping[str, int]


class Fleet(Report):
    """What was found of the processes that share the server, with `POOL_INSTANCES=auto`. `standing` is
    `member`, `waiting` (until the others have made room), `full` (no place) or `apart` (not known, or
    asleep); `share` is due to each pool, `claim` is what this one's may have now, `places` how many processes
    there can be, `orphans` the sessions of processes that are gone or have just come."""

    standing: str
    instances: int
    share: int
    claim: int
    places: int
    orphans: int


class GuardedPool(Report):
    """A pool's statistics, as `lifeguard.pool.PoolStats` describes them, the breaker in front of it, how many
    reads it has served, of a replica's how far that is behind, the lane that hangs, if one does, and who
    shares the server."""

    stats: dict[str, object]
    breaker: Breaker
    reads: int
    replica: Replica | None
    hanging_lane: HangingLane | None
    fleet: Fleet | None


class Plans(Report):
    """How many `routes` there are, and how many are answered by plans (docs/plans.md). The log says which of
    the others are not, and why."""

    model_config = ConfigDict(from_attributes=True)

    routes: int
    planned: int


class PoolsReport(Report):
    """`plans` is null where there are none."""

    draining: bool
    in_flight: int
    event_loop_lag: float
    pools: list[GuardedPool]
    plans: Plans | None


class Lease(Report):
    """One connection in use. `task` is the request it serves: method, path, id. Places are
    `file:line in function`, those of `stack` innermost first. `lane` is null while the pool has one lane."""

    model_config = ConfigDict(from_attributes=True)

    backend_pid: int
    client_address: str | None
    held_for: float
    overdue: bool
    borrowed_at: str | None
    route: str | None
    task: str | None
    stack: tuple[str, ...]
    waiting_for: str | None
    lane: str | None
    priority: str


class LeasesReport(Report):
    """`reports` says of a pool of which a lane hangs what that waits for, and `blocked_by` for whom."""

    leases: dict[str, list[Lease]]
    reports: dict[str, str]
    blocked_by: dict[str, tuple[str, ...]]


@router.get("/pool")
async def pool(request: Request) -> PoolsReport:
    """The pools, the breaker and the queue: numbers and states only."""
    state = state_of(request)
    return PoolsReport(
        draining=state["drain"].draining,
        in_flight=state["drain"].in_flight,
        event_loop_lag=rounded(state["loop_lag"].seconds, DIGITS),
        pools=[_guarded(pool) for pool in numbers(state["database"], state["scrub"])],
        plans=Plans.model_validate(note()) if (note := state["gate"].routing.notes.get("plans")) else None,
    )


def _guarded(pool: PoolNumbers) -> GuardedPool:
    stats = rounded(asdict(pool.stats), DIGITS)
    del stats["last_error"]  # the only text in it; /readyz and the log say it
    breaker = Breaker(state=pool.breaker.state, transitions=pool.breaker.transitions)
    replica = Replica(**rounded(asdict(pool.replica), DIGITS)) if pool.replica else None
    return GuardedPool(
        stats=stats,
        breaker=breaker,
        reads=pool.reads,
        replica=replica,
        hanging_lane=_hanging_lane(pool.hanging_lane),
        fleet=Fleet(**asdict(pool.fleet)) if pool.fleet else None,
    )


def _hanging_lane(report: LaneReport | None) -> HangingLane | None:
    """Numbers only: which table it is about, and who holds its lock, `/pool/leases` says."""
    if report is None:
        return None
    return HangingLane(
        lane=report.lane,
        holds=report.holds,
        held_for=rounded(report.held_for, DIGITS),
        sessions=report.sessions.deeds,
    )


async def operator(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Let nobody through but the holder of `OPS_TOKEN`; in development everybody.

    Raises Unauthorized without a token, Forbidden with a wrong one or where none is set.
    """
    settings = state_of(request)["settings"]
    if not settings.in_production:
        return
    if credentials is None:
        raise problems.Unauthorized("Send OPS_TOKEN as a bearer token.")
    if settings.ops_token is None:
        raise problems.Forbidden("OPS_TOKEN is not set, so nobody may see this.")
    expected = settings.ops_token.get_secret_value().encode()
    if not hmac.compare_digest(credentials.credentials.encode(), expected):
        raise problems.Forbidden("That is not the token.")


@router.get(
    "/pool/leases",
    dependencies=[Depends(operator)],
    responses=problems.documented(problems.Unauthorized, problems.Forbidden),
)
async def leases(request: Request) -> LeasesReport:
    """Who holds a connection now, since when, where it was borrowed and where that task is now; and what a
    lane that hangs waits for."""
    state = state_of(request)
    guards, scrub = state["database"].guards, state["scrub"]
    held = {guard.pool.name: [_lease(lease, scrub) for lease in guard.pool.leases()] for guard in guards}
    reports = {pool.stats.name: pool.hanging_lane for pool in numbers(state["database"], scrub)}
    said = {name: report for name, report in reports.items() if report}
    return LeasesReport(
        leases=held,
        reports={name: scrub(report.summary(tables=True)) for name, report in said.items()},
        blocked_by={name: tuple(map(scrub, report.sessions.blocked_by)) for name, report in said.items()},
    )


def _lease(lease: LeaseInfo, scrub: Scrubber) -> Lease:
    lane = shown_name(lease.lane, scrub) if lease.lane is not None else None
    return Lease.model_validate(rounded({**asdict(lease), "lane": lane}, DIGITS))
