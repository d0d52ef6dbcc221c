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
# Seconds in which what a name was served counts for half.
_HALF_LIFE = 60.0
# Seconds between two looks for a known name that gives its place to a busier one: they take 0.2 ms each.
_COMPARED_EVERY = 0.1


class _Use:
    """How a name was served: in how many different seconds, and in how many lately."""

    __slots__ = ("_lately", "_second", "seconds")

    def __init__(self) -> None:
        self._second = -1
        self._lately = 0.0
        self.seconds = 0

    def note(self, now: float) -> None:
        if int(now) != self._second:
            self._lately = self.lately(now) + 1
            self._second = int(now)
            self.seconds += 1

    def lately(self, now: float) -> float:
        return self._lately * 0.5 ** ((int(now) - self._second) / _HALF_LIFE) if self._lately else 0.0


class Newcomers:
    """Names that share one lane until they are known. Times are monotonic seconds.

    If there are more than can be known those are that were served in the most seconds lately. So whoever
    invents names, to keep others from being known, has to be served as often with each as they are.
    """

    def __init__(self) -> None:
        self._known: dict[OutsideLane, _Use] = {}
        self._on_trial: OrderedDict[OutsideLane, _Use] = OrderedDict()
        """The longest not served first."""
        self._compared_at = 0.0
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

    def set_aside(self, name: OutsideLane) -> bool:
        """It hangs: give it a lane of its own, so that its trouble is not that of all unknown names. False
        if there is none left to give."""
        if len(self._heavy) < MOST_HEAVY:
            self._heavy.add(name)
        return name in self._heavy

    def knows(self, name: OutsideLane) -> bool:
        return name in self._known

    def served(self, name: OutsideLane, now: float, *, crowded: bool) -> None:
        """It was served. While newcomers wait (`crowded`) none becomes known: they may be a flood."""
        use = self._known.get(name)
        if use is not None:
            use.note(now)
            return
        use = self._on_trial.pop(name, None) or _Use()
        use.note(now)
        if use.seconds >= _SECONDS_SERVED and not crowded and self._has_room_for(use, now):
            self._known[name] = use
            self._heavy.discard(name)
            return
        self._on_trial[name] = use
        if len(self._on_trial) > MOST_KNOWN:
            self._on_trial.popitem(last=False)

    def _has_room_for(self, use: _Use, now: float) -> bool:
        if len(self._known) < MOST_KNOWN:
            return True
        if now - self._compared_at < _COMPARED_EVERY:
            return False
        self._compared_at = now
        idlest, its_use = min(self._known.items(), key=lambda known: known[1].lately(now))
        if its_use.lately(now) >= use.lately(now):
            return False
        del self._known[idlest]
        return True
