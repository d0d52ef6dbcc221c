"""Which names from outside have a lane of their own. Who invents names must not get a share for each."""

from __future__ import annotations

from collections import OrderedDict

from lifeguard.pool.names import OutsideLane

MOST_KNOWN = 1024
"""Names with a lane of their own, and as many on trial."""
# A name is known once it was served in so many different seconds.
_SECONDS_SERVED = 3
# Seconds without a success after which a known name gives its place to another.
_UNUSED_AFTER = 60.0


class Newcomers:
    """Names that share one lane until they are known. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._known: OrderedDict[OutsideLane, float] = OrderedDict()
        """Since when each has not succeeded; the longest first."""
        self._on_trial: OrderedDict[OutsideLane, tuple[int, int]] = OrderedDict()
        """In which second each was last served, and in how many so far."""

    def __len__(self) -> int:
        return len(self._known) + len(self._on_trial)

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
