"""How the connections of a pool are divided among its lanes. Decisions: pure, without time.

For each lane is kept what it has lately used. It goes beyond that only on credit, which its own quick returns
earn. A lane that hangs returns nothing, so it stays at what is kept for it. One that works gets what is free.

- `fair`: the size of the pool, divided by the lanes in it: each counts as its demand, but no more than 1.
- `full`: what is kept from lanes without credit, `demand + 1.5 * sqrt(demand)`: chance seldom exceeds that.
  `mean`: what is kept from lanes with credit, which give back soon: the demand. Neither is above `fair`.
  For all small lanes, those with a demand below 0.5, a number is kept together; where
  there are several lanes, one at least, for a lane that has not come yet.
- `owed_full`, `owed_mean`: the sum of what is kept and not held. A sum, not a cap for each: caps add up over
  lanes that hang.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

from lifeguard.pool.lane import CRITICAL, Lane

# Below this demand a lane is small.
_SMALL = 0.5
# Times the square root of the demand: how far above its mean is kept from lanes without credit.
_MARGIN = 1.5
# A part of `size`: what is kept for small lanes together, if there are so many.
_PART_FOR_SMALL = 1 / 4


class Shares:
    """What is kept for whom."""

    __slots__ = (
        "free",
        "owed_floor",
        "owed_full",
        "owed_mean",
        "size",
        "small_full",
        "small_held",
        "small_lanes",
        "small_mean",
    )

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        """`free`: connections that no lane holds, those that can be opened included."""
        self.owed_full = self.owed_mean = self.owed_floor = 0
        """Kept and not held; the floor is what lanes were promised with `at_least`."""
        self.small_held = 0
        """How many small lanes hold something."""
        self.small_lanes = 0
        """How many there were at the last division, and one that has not come yet."""
        self.small_full = self.small_mean = 0
        """Kept for all small lanes together."""

    def may_take(self, lane: Lane, rank: int) -> bool:
        """Whether it may have one of those that are free."""
        used = lane.in_use
        if used < lane.floor:
            return True
        if used >= lane.at_most or self.free <= self.owed_floor:
            return False
        if not used or used < lane.full or self._exceeds(self.owed_full, self._for_small(lane)):
            return True
        if rank == CRITICAL and used < lane.pace:
            return self._nearly_all(used)
        if used >= lane.credit:
            return False
        return self._exceeds(self.owed_mean, self.small_mean - self.small_held)

    def at_once(self, lane: Lane) -> int:
        """How many connections it may get in one moment: what it holds and what is free, or its share."""
        return int(max(1, min(lane.at_most, max(lane.in_use + self.free, lane.full))))

    def may_keep(self, lane: Lane) -> bool:
        """Whether it may take again at once what it gives back."""
        used = lane.in_use
        if self.owed_floor or used > lane.at_most:
            return False
        return used <= max(1, lane.full) or self.free >= max(0, self._for_small(lane)) + self.owed_full

    def _for_small(self, lane: Lane) -> int:
        """What is kept for small lanes besides this one and not held: what it holds itself is no reserve of
        the others."""
        if lane.is_small and lane.in_use:
            return min(self.small_full, self.small_lanes - 1) - self.small_held + 1
        return self.small_full - self.small_held

    def may_take_at_last(self, lane: Lane, rank: int) -> bool:
        """The same, of a rank that was passed over for long: beyond its share as well, unless it hangs."""
        if self.may_take(lane, rank):
            return True
        return (
            lane.pace > 0
            and lane.in_use < lane.at_most
            and self.free > self.owed_floor
            and self._nearly_all(lane.in_use)
        )

    def _nearly_all(self, used: int) -> bool:
        """Whether one more leaves something to the others."""
        return used < self.size - 1

    def _exceeds(self, owed: int, for_small: int) -> bool:
        """Whether more is free than is kept for others."""
        spare = self.free - owed
        return spare > 0 and spare > for_small

    def one_more(self, *, is_second: bool) -> None:
        """A lane has come, a small one as yet. The next division may be too late: it
        may take all there is before."""
        self.small_lanes += 2 if is_second else 1  # and one that has not come yet
        kept = min(self.size - 1, self._reserve, self.small_lanes)
        self.small_full = max(self.small_full, kept)

    @property
    def _reserve(self) -> int:
        return max(1, int(self.size * _PART_FOR_SMALL))

    def divide(self, lanes: Iterable[Lane], *, keep: bool = True) -> None:
        """Keep for each what it has lately used; nothing with `keep` off."""
        lanes = tuple(lanes)
        # With fewer connections than were promised all would wait for the promises.
        keep_floors = keep and sum([lane.at_least for lane in lanes]) < self.size
        in_pool = max(1.0, sum([lane.weight * min(1.0, lane.demand) for lane in lanes]))
        self.free = self.size
        self.owed_full = self.owed_mean = self.owed_floor = self.small_held = 0
        small, small_lanes = 0.0, int(len(lanes) > 1)  # one that has not come yet
        for lane in lanes:
            used = lane.in_use
            self.free -= used
            lane.floor = lane.at_least if keep_floors else 0
            lane.is_small = keep and lane.demand < _SMALL and not lane.floor
            if keep and not lane.is_small:
                lane.kept = lane.full, lane.mean = self._kept_for(lane, self.size * lane.weight / in_pool)
                self.owed_full += max(0, lane.full - used)
                self.owed_mean += max(0, lane.mean - used)
                self.owed_floor += lane.floor - used if lane.floor > used else 0
                continue
            lane.full = lane.mean = 0
            lane.kept = None if lane.is_small else (0, 0)
            if lane.is_small:
                small += lane.demand
                small_lanes += 1
                self.small_held += used > 0
        self.small_lanes = small_lanes
        most = self.size - 1 if keep else 0
        self.small_full = min(most, max(min(self._reserve, small_lanes), int(small + sqrt(small) + 0.5)))
        self.small_mean = min(most, max(min(1, small_lanes), int(small)))

    def _kept_for(self, lane: Lane, fair: float) -> tuple[int, int]:
        demand = lane.demand
        full = max(1, min(int(fair), int(demand + _MARGIN * sqrt(demand) + 0.5)), lane.floor)
        mean = max(1, min(int(fair), int(demand + 0.5)), lane.floor)
        return int(min(full, lane.at_most)), int(min(mean, lane.at_most))
