"""The replicas together: which of them is read."""

from __future__ import annotations

from collections.abc import Sequence

from lifeguard.database.replica import Replica

__all__ = ["Replica", "Replicas"]


class Replicas:
    """Chooses among the replicas that serve; there may be none."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.all = tuple(replicas)

    def choose(self, after: int | None = None) -> Replica | None:
        """The replica to read from: of those that serve the one with the fewest loans; None if there is none.

        `after`: only one that had replayed the WAL up to there, in bytes since its beginning, when it was last
        asked. The caller compares the timelines: a place means something on its own timeline only.
        """
        fit = [
            replica
            for replica in self.all
            if replica.serves and (after is None or replica.replayed_lsn >= after)
        ]
        return min(fit, key=lambda replica: replica.loans, default=None)
