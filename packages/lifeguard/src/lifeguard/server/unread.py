"""What has come on a connection and has not been given to the parser. Nothing here does I/O."""

from __future__ import annotations

from lifeguard.server import framing

_HEAD_END, _SIZE_OF_END = framing.HEAD_END, len(framing.HEAD_END)
_MOST_BLANK_LINES = 4  # before a request line; RFC 9112, section 2.2, asks for one at least


class Unread(bytearray):
    """The bytes, in their order; at their beginning is a head, or what there is of a body."""

    __slots__ = ("_blank_lines", "_looked_at")

    def __init__(self) -> None:
        super().__init__()
        self._looked_at = 0
        """Bytes that hold no end of a head."""
        self._blank_lines = 0

    def size_of_head(self) -> int | None:
        """Give the size of the head that is next: 0 if it is not whole, None if nothing of it has come.

        The empty lines that some clients send behind a body are dropped.
        """
        while self.startswith(b"\r\n") and self._blank_lines < _MOST_BLANK_LINES:
            del self[:2]
            self._blank_lines += 1
        end = self.find(_HEAD_END, max(0, self._looked_at - _SIZE_OF_END))
        if end >= 0:
            return end + _SIZE_OF_END
        return 0 if self and self != b"\r" else None

    def check_beginning(self) -> None:
        """Look at what there is of a head that is not whole. Raises Malformed."""
        framing.check_beginning(bytes(self), self._looked_at)
        self._looked_at = len(self)

    def take_head(self, size: int) -> bytes:
        self._looked_at = self._blank_lines = 0
        head = bytes(self[:size])
        del self[:size]
        return head
