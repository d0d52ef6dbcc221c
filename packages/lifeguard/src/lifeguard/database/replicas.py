"""The replicas together: which of them is read, and what is told of those that are not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from functools import partial

import structlog

from lifeguard.database.guard import PoolMaker
from lifeguard.database.lag import interval, session_name
from lifeguard.database.replica import Replica
from lifeguard.database.wal import PrimaryWatch
from lifeguard.pool import OutsideLane, Pool, PoolEvent
from lifeguard.settings import Settings
from lifeguard.settings.dsn import host_of

__all__ = ["Replica", "Replicas", "lane_instead"]

_log = structlog.get_logger("lifeguard.database")


class Replicas:
    """Chooses among the replicas that serve; there may be none."""

    def __init__(
        self,
        settings: Settings,
        primary: Pool,
        makers: Collection[PoolMaker],
        on_event: Callable[[PoolEvent], None] | None,
    ) -> None:
        """Each of `makers` makes the pool of one replica, in the order of the settings' URLs. They are
        measured by `primary`."""
        self._watch = PrimaryWatch(primary, session_name(settings), interval(settings))
        self.all = tuple(
            Replica(
                make,
                settings,
                on_event,
                primary=self._watch,
                is_one_of_several=len(makers) > 1,
                host=host_of(url),
            )
            for make, url in zip(makers, settings.replica_urls, strict=True)
        )
        self._told: dict[Replica, str] = {}
        """What was last said of those that are not read."""

    @property
    def primary(self) -> PrimaryWatch:
        """What is known of the primary's WAL."""
        return self._watch

    def start(self) -> None:
        """Begin to ask the servers. The pools are open."""
        if self.all:
            self._watch.start(replica.lag for replica in self.all)
        for replica in self.all:
            replica.lag.start(partial(self.note, replica), replica.cut_off)

    async def stop(self) -> None:
        """End the questions to the primary; each replica ends its own."""
        await self._watch.stop()

    def choose(self, after: int | None = None, *, but: Collection[Replica] = ()) -> Replica | None:
        """The replica to read from: of those that serve, `but` for these, the one with the fewest loans; None
        if there is none. Of several one that has a free connection, or may open one, and then the one that
        was not chosen for longest.

        `after`: only one that had replayed the WAL up to there, in bytes since its beginning, when it was
        last asked. The caller compares the timelines: a place means something on its own timeline only.
        """
        chosen, best = None, (True, 0, 0.0)
        for replica in self.all:
            if replica in but or not replica.serves or (after is not None and replica.replayed_lsn < after):
                continue
            loans = replica.loans
            rank = (loans >= replica.pool.get_max_size(), loans, replica.chosen_at)
            if chosen is None or rank < best:
                chosen, best = replica, rank
        return chosen

    def wake(self) -> None:
        """Have those that sleep (POOL_MIN_SIZE=0) open a connection: they may serve who comes later."""
        for replica in self.all:
            replica.wake()

    def note(self, replica: Replica, reason: str = "") -> None:
        """Tell once that a replica serves no more, or again."""
        reason = replica.obstacle or reason
        if reason and replica not in self._told:
            self._told[replica] = reason
            lag = replica.lag.lag
            fields: dict[str, object] = {"replica": replica.pool.name, "host": replica.host, "reason": reason}
            fields["reads"] = "other replicas" if any(other.serves for other in self.all) else "primary"
            if lag is not None:
                fields |= {"lag_seconds": round(lag.seconds, 3), "lag_bytes": lag.size}
            # One that the URLs name for both is no fault: each switchover makes another of them the primary.
            if replica.lag.standing == "primary":
                _log.info("replica_out_of_service", **fields)
            else:
                _log.warning("replica_out_of_service", **fields)
        elif replica in self._told and replica.serves and not reason:
            del self._told[replica]
            _log.info("replica_serves_again", replica=replica.pool.name, host=replica.host)

    def note_served(self, replica: Replica) -> None:
        """It has lent a connection: tell that it serves again, if that was not told."""
        if replica in self._told:
            self.note(replica)

    def note_all(self) -> None:
        """Tell of those that do not serve."""
        for replica in self.all:
            if replica not in self._told:
                self.note(replica)

    def note_repeated(self, replica: Replica, error: Exception) -> None:
        """Count and tell that the primary answers a read that this replica has cancelled, or left
        unanswered."""
        replica.repeated += 1
        _log.info("read_repeated", replica=replica.pool.name, sqlstate=getattr(error, "sqlstate", None))

    @property
    def obstacles(self) -> dict[str, str]:
        """Why those are not read that are not, by the names of their pools."""
        return {replica.pool.name: obstacle for replica in self.all if (obstacle := replica.obstacle)}


def lane_instead(lane: Hashable | None) -> Hashable | None:
    """The lane in the primary's pool of reads that no replica serves, beside the one that they have named:
    they have a share of their own, and take nothing from what that lane writes. None stays None: who has
    named no lane is in one queue with all others."""
    if lane is None:
        return None
    name = f"for a replica: {lane}"
    return OutsideLane(name) if isinstance(lane, OutsideLane) else name
