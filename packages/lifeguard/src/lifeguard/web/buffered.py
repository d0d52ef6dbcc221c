"""How many bytes of requests the process holds, of all clients together.

Each connection has bounds of its own, but a client may have many connections.
"""

from __future__ import annotations

RETRY_AFTER = 1
"""Seconds after which a client that was turned away may try again: bodies under way are complete by then."""


class Buffered:
    """Counts what is held of requests that are under way: what was read and is not used, and bodies."""

    __slots__ = ("most", "used")

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    @property
    def is_full(self) -> bool:
        return self.used > self.most

    def fits(self, more: int) -> bool:
        """Whether so many bytes more are within the bound."""
        return self.used + more <= self.most


class Share:
    """The part of the counted bytes that one connection, or one request, holds."""

    __slots__ = ("_all", "_held")

    def __init__(self, everything: Buffered | None) -> None:
        """Without a count, nothing is too much."""
        self._all = everything
        self._held = 0

    def hold(self, size: int) -> bool:
        """Note that it holds `size` bytes now. False if they are more than before, and too many with all."""
        grown = size - self._held
        if not grown or self._all is None:
            return True
        self._held = size
        self._all.used += grown
        return grown < 0 or not self._all.is_full
