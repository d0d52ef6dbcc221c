"""Which replica lends the connection of a read."""

from __future__ import annotations

from contextlib import AsyncExitStack

from lifeguard.database.consistency import Consistency, Elsewhere, Lend
from lifeguard.database.errors import DatabaseUnavailable
from lifeguard.database.position import Position
from lifeguard.database.replica import Replica
from lifeguard.database.replicas import Replicas
from lifeguard.pool import Lease, PoolSaturated, PoolTimeout, PoolUnavailable


class ReplicaLending:
    """Asks the replicas of one database in turn."""

    def __init__(self, replicas: Replicas, consistency: Consistency) -> None:
        self._replicas = replicas
        self._consistency = consistency

    async def lend(
        self, stack: AsyncExitStack, lend: Lend, position: Position | None
    ) -> tuple[Replica | None, Lease | None]:
        """By one that is not out of service, too far behind or asleep, if there is one: no read waits for a
        replica that is known not to serve. With a `position` by one that has replayed it."""
        if position is not None:
            found = await self._consistency.lend(stack, position, lend)
            if found is not Elsewhere.ANYWHERE:
                return found or (None, None)
        tried: list[Replica] = []
        while (replica := self._replicas.choose(but=tried)) is not None:
            tried.append(replica)
            if replica.loans:
                self._replicas.wake()  # those that sleep may serve those who come later
            try:
                lease = await stack.enter_async_context(lend(replica))
            except (PoolUnavailable, DatabaseUnavailable) as error:
                self._replicas.note(replica, str(error))
            except (PoolSaturated, PoolTimeout):
                if await replica.answers():
                    raise  # it is busy, and its load would be too much for the others, too
                self._replicas.note(replica)
            else:
                return replica, lease
        self._replicas.note_all()
        self._replicas.wake()
        return None, None
