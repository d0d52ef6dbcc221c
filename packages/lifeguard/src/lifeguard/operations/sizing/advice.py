"""How large the pools should be: arithmetic alone.

The formulas are those that guides to pooling agree on:

- connections at work = cores x 2 + disks, which is what a server can do at once:
  https://wiki.postgresql.org/wiki/Number_Of_Database_Connections
- connections in use = requests a second x time that each keeps one (Little's law)
- a pool of Tn x (Cm - 1) + 1, where each of Tn tasks holds up to Cm connections, has always one
  that can go on:
  https://github.com/brettwooldridge/HikariCP/wiki/About-Pool-Sizing
- 25 % of headroom, POOL_HEADROOM = 0.75: of the server's sessions for others, of a pool for loads that come
  unevenly
- 5 to 10 MB of the server's memory for a connection
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lifeguard.operations.sizing.asked import Asked
from lifeguard.settings import Settings

MEGABYTES = (5, 10)
"""Of the server, for a connection: a backend's own memory, without what `work_mem` allows its sorts."""
MOST_WAITING = 1000
"""POOL_MAX_WAITING's default: more waiters than that are memory, and nobody's answer."""

LARGEST_POOL = 10_000
"""As POOL_MAX_SIZE has it."""

Load = Literal["unknown", "carried", "tight", "too much"]
Why = Literal["load", "server", "tasks", "deadlock", "two", "fair share", "pooler"]
"""What decides a pool's size: its part of `total`, which is the load's or the server's, or a bound."""


@dataclass(frozen=True, slots=True)
class PoolerSizes:
    """What a pooler in transaction mode has to have; several processes of one share it out."""

    default_pool_size: int
    reserve_pool_size: int
    max_client_conn: int
    instead: int
    """`max_connections` with which the server could do without it."""

    @property
    def at_server(self) -> int:
        return self.default_pool_size + self.reserve_pool_size


@dataclass(frozen=True, slots=True)
class Advice:
    """The sizes, and what they come from. Counts are connections unless a name says otherwise."""

    asked: Asked
    at_once: float | None
    """In use while all that the server can do at once is done; None: no cores told."""
    in_use: float | None
    """By the load on average; None: no load told."""
    needed: int | None
    """For the load with headroom."""
    deadlock_bound: int
    """The smallest pool in which tasks cannot wait for each other's connections for ever."""
    total: int
    """What is worth having in all pools together; what each process needs at least may be more."""
    fair_share: int
    """What the server has for each process while a deploy rolls."""
    least: int
    """What each process needs at least."""
    max_size: int
    why: Why
    """That it is this and not another."""
    min_size: int
    max_waiting: int | None
    queue_target: float | None
    """Seconds."""
    pooler: PoolerSizes | None

    @property
    def at_server(self) -> int:
        """Sessions at the server, at most."""
        return self.pooler.at_server if self.pooler else self.asked.instances * _sessions(self)

    @property
    def megabytes(self) -> tuple[int, int]:
        """Of the server's memory, for them."""
        return self.at_server * MEGABYTES[0], self.at_server * MEGABYTES[1]

    @property
    def capacity(self) -> float:
        """Connections in use that the server can have at once, by its processors and by its sessions."""
        sessions = self.asked.comfortable
        return sessions if self.at_once is None else min(self.at_once, sessions)

    @property
    def load(self) -> Load:
        """Whether the server can carry the load."""
        if self.in_use is None or self.needed is None:
            return "unknown"
        if self.in_use > self.capacity:
            return "too much"
        return "tight" if self.needed > self.capacity else "carried"

    @property
    def longest_hold_ms(self) -> float | None:
        """Below which the hold time must go for the load to be carried; None: it can not, or need not."""
        if self.load != "too much" or not self.asked.rps:
            return None
        busy = math.inf
        if self.asked.cores is not None:
            busy = _at_work(self.asked) * 1000 / self.asked.rps + self.asked.idle_ms
        return min(busy, self.asked.comfortable * 1000 / self.asked.rps)

    @property
    def can_deadlock(self) -> bool:
        """Whether tasks can wait for each other's connections for ever."""
        if self.asked.borrows == 1:
            return False
        if self.pooler is not None:
            together = _deadlock_bound(self.asked, self.asked.instances)
            return self.max_size < self.deadlock_bound or self.pooler.at_server < together
        return self.max_size < self.deadlock_bound

    @property
    def works(self) -> bool:
        """Whether a service of these sizes can do what is asked."""
        return self.load != "too much" and not self.can_deadlock


def advise(asked: Asked) -> Advice:
    """Compute the sizes."""
    in_use, at_once = asked.in_use, _at_once(asked)
    needed = None if in_use is None else max(1, math.ceil(in_use / asked.headroom))
    total = _total(asked, needed, at_once)
    deadlock_bound = _deadlock_bound(asked, 1)
    bound = min(LARGEST_POOL, deadlock_bound)
    least = _least(asked, bound, min(total, asked.comfortable))
    fair_share = asked.comfortable // asked.instances - _of_lag(asked)
    max_size, why = _wanted(asked, total, bound, least)
    pooler = None
    if fair_share >= least:
        if max_size > fair_share:
            max_size, why = fair_share, "fair share"
    else:
        backends = max(1, min(total, asked.comfortable))
        if max_size > max(backends, bound):
            max_size, why = max(backends, bound), "pooler"
        pooler = _pooler(asked, backends, max_size, _least(asked, bound, total))
    if why == "load" and total != needed:
        why = "server"
    max_waiting, queue_target = _queue(asked, max_size)
    return Advice(
        asked=asked,
        at_once=at_once,
        in_use=in_use,
        needed=needed,
        deadlock_bound=deadlock_bound,
        total=total,
        fair_share=fair_share,
        least=least,
        max_size=max_size,
        why=why,
        min_size=_min_size(asked, max_size),
        max_waiting=max_waiting,
        queue_target=queue_target,
        pooler=pooler,
    )


def _total(asked: Asked, needed: int | None, at_once: float | None) -> int:
    """What the server can do at once, so that a crowd has all of it, or what the load needs if that is more,
    as where connections wait for the network; never more than keeps it busy. Without cores, the load."""
    if at_once is None:
        assert needed is not None
        return needed
    return max(1, int(min(at_once, max(_at_work(asked), needed or 0))))


def _wanted(asked: Asked, total: int, bound: int, least: int) -> tuple[int, Why]:
    """What a process should have, if the server has it: its part of `total`, no more than its tasks can
    borrow, and no less than it needs."""
    part, most = math.ceil(total / asked.processes), _most(asked)
    if max(bound, 2) <= part <= most:
        return part, "load"
    if part > most:
        return most, "tasks"
    return least, "deadlock" if least == bound > part else "two" if least > part else "load"


def _at_work(asked: Asked) -> float:
    """Connections at which the server can work at once, of what is this service's."""
    assert asked.cores is not None
    return max(1.0, (asked.cores * 2 + asked.disks) * asked.share)


def _at_once(asked: Asked) -> float | None:
    """The same with those that meanwhile wait for the service: the formula counts who is at work."""
    if asked.cores is None:
        return None
    busy = 1.0 if asked.hold_ms is None else (asked.hold_ms - asked.idle_ms) / asked.hold_ms
    return _at_work(asked) / busy


def _least(asked: Asked, bound: int, total: int) -> int:
    """What each process needs: no deadlock, its part of the load without headroom, and two, so that one slow
    statement does not stop it; no more than all its tasks can borrow."""
    part = 0 if asked.in_use is None else math.ceil(min(asked.in_use, total) / asked.processes)
    return max(bound, min(max(2, part), _most(asked)))


def _most(asked: Asked) -> int:
    """What all tasks of a process can borrow at once."""
    return LARGEST_POOL if asked.tasks is None else min(LARGEST_POOL, asked.tasks * asked.borrows)


def _deadlock_bound(asked: Asked, processes: int) -> int:
    return (asked.tasks or 1) * processes * (asked.borrows - 1) + 1


def _of_lag(asked: Asked) -> int:
    """Of each process, at every server: what asks for the lag."""
    return 1 if asked.standbys else 0


def _sessions(advice: Advice) -> int:
    return advice.max_size + _of_lag(advice.asked)


def _pooler(asked: Asked, backends: int, max_size: int, least: int) -> PoolerSizes:
    """Its side to the server has what the server has, its side to the service a place for every connection
    and for one more of each process."""
    sessions = asked.instances * (least + _of_lag(asked))
    instead = asked.reserved + math.ceil(sessions / asked.headroom / asked.share)
    while int(int((instead - asked.reserved) * asked.share) * asked.headroom) < sessions:
        instead += 1
    return PoolerSizes(
        default_pool_size=backends,
        reserve_pool_size=min(asked.comfortable - backends, math.ceil(backends / 4)),
        max_client_conn=asked.instances * (max_size + 1),
        instead=instead,
    )


def _min_size(asked: Asked, max_size: int) -> int:
    """What the load has in use on average stays open; the rest is opened when it is wanted."""
    if asked.scale_to_zero:
        return 0
    default: int = Settings.model_fields["pool_min_size"].default
    usual = default if asked.in_use is None else math.ceil(asked.in_use / asked.processes)
    return min(usual, max_size)


def _queue(asked: Asked, max_size: int) -> tuple[int | None, float | None]:
    """POOL_MAX_WAITING, what the pool can serve within POOL_ACQUIRE_TIMEOUT: who comes later waits in vain.
    POOL_QUEUE_TARGET, no less than one hold time: below it whoever has to wait at all would be shed."""
    if asked.hold_ms is None:
        return None, None
    hold = asked.hold_ms / 1000
    patience: float = Settings.model_fields["pool_acquire_timeout"].default
    target: float = Settings.model_fields["pool_queue_target"].default
    waiting = max(max_size, math.ceil(min(max_size * patience / hold, MOST_WAITING)))
    return min(waiting, MOST_WAITING), round(min(max(target, hold), patience / 2), 3)
