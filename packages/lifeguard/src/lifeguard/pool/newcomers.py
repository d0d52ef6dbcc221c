"""Which names from outside have a lane of their own. Who invents names must not get a share for each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from lifeguard.pool.names import OutsideLane


class _Shared:
    """The name of a lane that the pool itself has made; equal to nothing else."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name


NEWCOMERS = _Shared("newcomers")
"""The lane of all unknown names, but for those that come most."""
OTHERS = _Shared("others")
"""The lane of the program's own names, when there are too many."""
MOST_LANES = 4096
"""Lanes at the same time. To look at them all must not take longer than what they are looked at for."""
MOST_KNOWN = 1024
"""Names with a lane of their own, and as many on trial."""
# A name is known once it was served in so many different seconds.
_SECONDS_SERVED = 3
MOST_HEAVY = 4
"""Unknown names that have a lane of their own because they come so often."""
# An unknown name is heavy when it is so large a part of the arrivals of unknown names within a second, and
# has come so often in it.
_HEAVY_PART = 1 / 4
_HEAVY_FROM = 16
_WINDOW = 1.0
# Names whose arrivals are counted at the same time. Whatever names come, none is missed that is more than one
# part in so many: Misra and Gries, Finding repeated elements, 1982.
_COUNTED = 64
# Seconds without a success after which a known name gives its place to another.
_UNUSED_AFTER = 60.0


class Newcomers:
    """Names that share one lane until they are known. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._known: OrderedDict[OutsideLane, float] = OrderedDict()
        """Since when each has not succeeded; the longest first."""
        self._on_trial: OrderedDict[OutsideLane, tuple[int, int]] = OrderedDict()
        """In which second each was last served, and in how many so far."""
        self._heavy: set[Hashable] = set()
        """Unknown names with a lane of their own."""
        self._arrivals: dict[OutsideLane, int] = {}
        """How often the most frequent have come since the window began; at least so often, in fact."""
        self._arrived = 0
        self._window_ends = 0.0

    def __len__(self) -> int:
        return len(self._known) + len(self._on_trial) + len(self._heavy) + len(self._arrivals)

    def comes(self, name: OutsideLane, now: float) -> bool:
        """An unknown name comes. Whether it comes so often that it gets a lane of its own: a flood must not
        take the lane that the others share. Who invents names gains nothing: each comes seldom."""
        if name in self._heavy:
            return True
        arrivals = self._arrivals
        if now >= self._window_ends:
            self._window_ends = now + _WINDOW
            self._arrived = 0
            arrivals.clear()
        self._arrived += 1
        times = arrivals.get(name, 0) + 1
        if times == 1 and len(arrivals) >= _COUNTED:
            self._arrivals = {each: count - 1 for each, count in arrivals.items() if count > 1}
            return False
        arrivals[name] = times
        if times < max(_HEAVY_FROM, self._arrived * _HEAVY_PART) or len(self._heavy) >= MOST_HEAVY:
            return False
        self._heavy.add(name)
        return True

    def left(self, name: Hashable) -> None:
        """Its lane is forgotten."""
        self._heavy.discard(name)

    def knows(self, name: OutsideLane) -> bool:
        return name in self._known

    def served(self, name: OutsideLane, now: float, *, crowded: bool) -> None:
        """It was served. While newcomers wait (`crowded`) none becomes known: they may be a flood."""
        if name in self._known:
            self._known[name] = now
            self._known.move_to_end(name)
            return
        last, times = self._on_trial.pop(name, (-1, 0))
        if int(now) != last:
            last, times = int(now), times + 1
        if times >= _SECONDS_SERVED and not crowded and self._has_room(now):
            self._known[name] = now
            self._heavy.discard(name)
            return
        self._on_trial[name] = (last, times)
        if len(self._on_trial) > MOST_KNOWN:
            self._on_trial.popitem(last=False)

    def _has_room(self, now: float) -> bool:
        if len(self._known) < MOST_KNOWN:
            return True
        longest_unused, last_success = next(iter(self._known.items()))
        if now - last_success <= _UNUSED_AFTER:
            return False
        del self._known[longest_unused]
        return True
