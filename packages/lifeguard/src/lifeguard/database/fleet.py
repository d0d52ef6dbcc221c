"""How the processes of a service share the sessions of a server: decisions on what one question has found,
without I/O and without a clock.

Each process has a seat: one session whose name says how many connections its pool may have, its claim. All
see the same seats, so all compute the same share, and nobody has to lead. The rules that keep the sum within
the server:

- A pool has no more sessions than its claim. A claim falls after the pool has shrunk, and rises before it
  grows.
- A claim that rises is said first, then checked: all seats are read once more, and what does not fit is taken
  back before it is used. Of two that rise at the same time at least one sees the other.
- What a process had that is gone counts for as long as the server has its sessions.
- A newcomer without room waits: on a seat, which has the others shrink, or, where there is not even room for
  seats, outside, and comes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# A process that has just come, or come back, claims no more than its minimum (or what it had) for so many
# seconds of the server's clock: after a restart or a failover the others are on their way back. The opener's
# longest pause in an outage is 2 s.
SETTLE = 5.0
# Seconds between two questions, and how many of them all processes together may ask in a second: each takes
# the server a fraction of a millisecond, and more with more sessions.
INTERVAL = 2.0
QUESTIONS_A_SECOND = 50.0
# A seat and one connection.
_LEAST = 2


class Verdict(Enum):
    """What becomes of a process that can have no connection now."""

    WAIT = "wait"
    """It stays seated: the others will shrink."""
    COME_AGAIN = "come again"
    """There is no room for another seat now."""
    NO_PLACE = "no place"
    """Those before it have all that the server can share out."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One process, as the server sees it."""

    session: int
    """Process id of the session."""
    claim: int
    """Connections that its pool may have; 0: it waits."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What one question has found."""

    room: int
    """Sessions that ordinary users of this role can have."""
    left_by_others: int
    """Sessions of the server that neither are reserved nor belong to anybody but this service."""
    orphans: int
    """Sessions of this service whose process has no seat: it is gone, or it is at the door."""
    seats: tuple[Seat, ...]
    """Who came first is first."""
    mine: int
    """The session that has asked: a seat, or not yet."""
    age: float
    """Seconds since that session began."""

    def taken_by_others(self) -> int:
        """Sessions that all others have, or may open without asking."""
        others = (seat for seat in self.seats if seat.session != self.mine)
        return sum(1 + seat.claim for seat in others) + self.orphans


@dataclass(frozen=True, slots=True)
class Terms:
    """What this process brings along."""

    headroom: float
    """POOL_HEADROOM."""
    ceiling: int | None
    """POOL_MAX_SIZE; None: `auto`."""
    first: int
    """What it claims at first: POOL_MIN_SIZE, or 1."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is shared out, as all compute it from the same facts."""

    budget: int
    """Sessions for all processes, seats included."""
    lobby: int
    """Seats above the budget for those who wait."""
    places: int
    """Most processes: each has a seat and a connection."""
    members: int
    """Processes that share it, this one included."""
    share: int
    """Connections of each pool; 0 if there is no place for this one."""


def budget(room: int, left_by_others: int, headroom: float) -> int:
    """Sessions for all processes: POOL_HEADROOM of what the server has, as without `auto`, but never the last
    ones, by which newcomers come in."""
    door = max(_LEAST, room // 20)
    return max(0, min(int(room * headroom), room - door, left_by_others - door))


def plan(facts: Facts, terms: Terms) -> Plan:
    total = budget(facts.room, facts.left_by_others, terms.headroom)
    places = total // _LEAST
    sessions = [seat.session for seat in facts.seats]
    rank = sessions.index(facts.mine) if facts.mine in sessions else len(sessions)
    members = min(len(sessions) + (facts.mine not in sessions), places)
    share = total // members - 1 if members and rank < places else 0
    if terms.ceiling is not None:
        share = min(share, terms.ceiling)
    room = min(facts.room, facts.left_by_others)
    return Plan(total, max(0, room - total) // 2, places, members, share)


def decide(facts: Facts, terms: Terms, claim: int) -> int | Verdict:
    """The claim that a process with this one should have: a lower one once its pool has shrunk, a higher one
    as soon as `confirm()` says so."""
    found = plan(facts, terms)
    if not found.share:
        return Verdict.NO_PLACE
    if claim >= found.share:
        return found.share
    longest = max(claim, terms.first) if facts.age < SETTLE else found.share
    fits = found.budget - 1 - facts.taken_by_others()
    grown = min(found.share, longest, fits)
    if grown > claim:
        return grown
    return claim or _at_the_door(facts, found)


def confirm(facts: Facts, terms: Terms, claimed: int, before: int) -> int | Verdict:
    """How much of a claim that has been said, of a process with `before`, it may use."""
    found = plan(facts, terms)
    if not found.share:
        return before or Verdict.NO_PLACE
    fits = found.budget - 1 - facts.taken_by_others()
    allowed = max(before, min(claimed, fits, found.share))
    return allowed or _at_the_door(facts, found)


def _at_the_door(facts: Facts, found: Plan) -> Verdict:
    fits = facts.taken_by_others() + 1 <= found.budget + found.lobby
    return Verdict.WAIT if fits else Verdict.COME_AGAIN


def interval(members: int) -> float:
    """Seconds between two questions of one process, without jitter."""
    return max(INTERVAL, members / QUESTIONS_A_SECOND)
