"""Whether a lane's own trouble is such that its borrowers are better refused at once.

A lane hangs when what it holds does not come back: its table is locked, or a service does not answer that it
calls while it holds a connection. Then its waiters would only run into their deadlines. The other lanes go
on, so this says nothing about the database.
"""

from __future__ import annotations

from typing import Literal

# Seconds: the least age of its oldest lease, and the least time without a success.
PATIENCE = 1.0
# A lease is overdue at so many times the usual hold.
_TIMES_USUAL = 4
# The usual hold is an average in which each success counts so much.
_SHARE = 0.05

BreakerState = Literal["closed", "half_open", "open"]


class LaneBreaker:
    """Opens when the oldest lease is older than `max(1 s, 4 x the usual hold)`, nothing has succeeded for a
    second and somebody was refused or has timed out. Then it admits one borrower at a time, as a probe. Any
    success closes it. Times are monotonic seconds."""

    __slots__ = ("_last_success", "_probe", "is_alert", "is_open", "usual_hold")

    def __init__(self, now: float) -> None:
        self.is_open = False
        self.is_alert = False
        """It is open, or somebody was refused since the last success: the next one changes something."""
        self._probe: object | None = None
        self._last_success = now
        self.usual_hold = 0.0

    @property
    def state(self) -> BreakerState:
        if not self.is_open:
            return "closed"
        return "open" if self._probe is None else "half_open"

    @property
    def admits(self) -> bool:
        """Whether a borrower may try."""
        return not self.is_open or self._probe is None

    def refused(self) -> None:
        """A borrower was turned away, or has waited in vain."""
        self.is_alert = True

    def lent(self, lease: object) -> None:
        """While it is open the lease is its probe."""
        if self.is_open and self._probe is None:
            self._probe = lease

    def learn(self, held: float, at: float, number: int) -> None:
        """So many leases were successes, the last one `at` this time, before anybody was refused; they were
        held so long on average."""
        usual = self.usual_hold
        self.usual_hold = usual + (1 - (1 - _SHARE) ** number) * (held - usual) if usual else held
        self._last_success = at

    def succeeded(self, now: float) -> None:
        """A lease was a success."""
        self._last_success = now
        self._probe = None
        self.is_open = self.is_alert = False

    def ended(self, lease: object) -> None:
        """A lease was no success; if it was the probe, another one may be."""
        if lease is self._probe:
            self._probe = None

    def look(self, oldest_lease: float, awake_since: float, now: float) -> bool:
        """Whether it opens now. Nothing counts from before `awake_since`, when the process had been stopped:
        then nothing could come back."""
        if self.is_open or not self.is_alert:
            return False
        if now - max(self._last_success, awake_since) <= PATIENCE:
            return False
        self.is_open = now - max(oldest_lease, awake_since) > max(PATIENCE, _TIMES_USUAL * self.usual_hold)
        return self.is_open
