"""The processes that share a server (POOL_INSTANCES=auto), as somebody sees them who is none of them."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from lifeguard.database.fleet import Facts, Plan, Terms, plan
from lifeguard.database.fleet_seat import look
from lifeguard.settings import Settings


@dataclass(frozen=True, slots=True)
class Present:
    """Those that are there now."""

    facts: Facts
    next: Plan
    """As one more would compute it."""

    @property
    def has_place(self) -> bool:
        """Whether the server can take one more."""
        return self.next.share > 0

    def __str__(self) -> str:
        return f"{self.processes}; {self.shared_out}; {self.newcomer}"

    @property
    def processes(self) -> str:
        number = len(self.facts.seats)
        claims = [seat.claim for seat in self.facts.seats if seat.claim]
        text = f"{number or 'no'} process{'' if number == 1 else 'es'} now"
        if claims:
            least, most = min(claims), max(claims)
            text += f", with {_range(least, most)} for {'its pool' if number == 1 else 'each pool'}"
        if waiting := number - len(claims):
            text += f", {waiting} of them waiting until others have shrunk"
        if self.facts.orphans:
            text += f", and {self.facts.orphans} sessions of some that are gone or just come"
        return text

    @property
    def shared_out(self) -> str:
        return f"places for {self.next.places} ({self.next.budget} sessions; each has one beside its pool)"

    @property
    def newcomer(self) -> str:
        return f"with one more each has {self.next.share}" if self.has_place else "no place for one more"


def _range(least: int, most: int) -> str:
    if least == most:
        return f"{most} connection{'' if most == 1 else 's'}"
    return f"{least} to {most} connections"


async def present(connection: asyncpg.Connection, settings: Settings) -> Present:
    """Count them."""
    facts = await look(connection, settings.service_name)
    most = settings.pool_max_size
    terms = Terms(settings.pool_headroom, None if most == "auto" else most, max(1, settings.pool_min_size))
    return Present(facts, plan(facts, terms))
