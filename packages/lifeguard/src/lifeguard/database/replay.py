"""Who waits for a replica's replay. One question to the replica serves all."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from itertools import count


class ReplayWaiters:
    """Those that wait until a replica has replayed a place, the lowest first.

    Whoever stops waiting cancels its future.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number = count()

    def __bool__(self) -> bool:
        """Whether anybody still waits."""
        while self._waiting and self._waiting[0][2].done():
            heappop(self._waiting)
        return bool(self._waiting)

    def __len__(self) -> int:
        return sum(not future.done() for _, _, future in self._waiting)

    def add(self, lsn: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (lsn, next(self._number), future))
        return future

    def note(self, replayed_lsn: int) -> None:
        """Replay has come to there."""
        while self and self._waiting[0][0] <= replayed_lsn:
            heappop(self._waiting)[2].set_result(None)
