"""Where a request begins and ends, as RFC 9112 says and no more leniently.

The proxy in front and this service must agree on that, or one client's body becomes another's
request. The parser (llhttp) is strict, but not in everything, and it reads on for as long as there are
bytes. So a head is looked at here first, whole, and the parser gets one request at a time.

Nothing here does I/O. A fault is a `Malformed`, with the problem that says it.
"""

from __future__ import annotations

import re

from fastapi_problem.error import StatusProblem

from lifeguard.web import problems
from lifeguard.web.request_head import MOST_HEADERS

LARGEST_HEADER = 32 * 1024
"""Bytes of a request's head, as many as nginx takes, and of the trailers behind its body."""
LARGEST_TARGET = 8 * 1024
"""Bytes of a request's target: as many as RFC 9112, section 3, asks of every server."""
LARGEST_EXTENSIONS = 16 * 1024
"""Bytes of a body's chunk extensions, all together. Nobody here reads them."""

HEAD_END = b"\r\n\r\n"
_LINE_END = b"\r\n"
_LONGEST_CHUNK_LINE = 1024
_MOST_AT_ONCE = 64 * 1024
_MOST_CHUNKS_AT_ONCE = 256

# No group here is possessive: before Python 3.11.5 such a group matched what it must not (CPython's issue
# 106052). Classes of characters may be. One character tells what goes on, so nothing goes back over much.
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
# What RFC 3986 allows, and in the query also what browsers leave as it is.
_PATH = rb"/[!$&-;=@-Z_a-z~]*+(?:%[0-9A-Fa-f]{2}[!$&-;=@-Z_a-z~]*+)*"
_QUERY = rb"(?:\?[!$-;=?-~]*+)?"
_AUTHORITY = rb"(?:[!$&-.0-9;=A-Z_a-z~%]*+|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?"
_FIELDS = rb"(?:" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n){0,%d}" % MOST_HEADERS

_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"++) (\S++) (HTTP/[0-9]\.[0-9])\r\n")
_TARGET = re.compile(
    rb"(?:https?://(" + _AUTHORITY + rb")(?:" + _PATH + rb")?|" + _PATH + rb")" + _QUERY, re.IGNORECASE
)
_ORDINARY = re.compile(
    rb"(?!CONNECT )" + _TOKEN + rb"++ " + _PATH + _QUERY + rb" HTTP/1\.1\r\n" + _FIELDS + _LINE_END
)
_SECTION = re.compile(_FIELDS + _LINE_END)
_FORWARDED_FOR = re.compile(rb"\r\nx-forwarded-for:[ \t]*+([^\r\n]*+)(?=\r\n)", re.IGNORECASE)
_HOST = re.compile(rb"\r\nhost:[ \t]*+(" + _AUTHORITY + rb")[ \t]*+\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*+([0-9]{1,18})[ \t]*+\r\n")
_CODING = re.compile(rb"\r\ntransfer-encoding:[ \t]*+chunked[ \t]*+\r\n")
_CODINGS = re.compile(rb"\r\ntransfer-encoding:([^\r]*+)\r\n")
_EXPECTATION = re.compile(rb"\r\nexpect:[ \t]*+100-continue[ \t]*+\r\n")
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r]*+(?=\r\n)", re.IGNORECASE)
_SOCKET = re.compile(
    rb"GET \S++ HTTP/1\.1(?=\r\n).*\r\nupgrade:[ \t]*+websocket[ \t]*+\r\n", re.IGNORECASE | re.DOTALL
)
_SPECIAL = re.compile(rb"\r\n(?:content-length|transfer-encoding|expect|upgrade):")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t\x20-\x7e\x80-\xff]*+)?")
_STRAY_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")


class Malformed(Exception):
    """The bytes are not a request; `problem` says why."""

    def __init__(self, problem: type[StatusProblem]) -> None:
        super().__init__(problem.title)
        self.problem = problem


class Head:
    """A whole head, from the request line to the empty line."""

    __slots__ = ("body", "is_special", "lowered", "raw")

    def __init__(
        self, raw: bytes, lowered: bytes, body: Sized | Chunked | None = None, *, is_special: bool = False
    ) -> None:
        self.is_special = is_special
        """Whether it has a field that says how it is to be read."""
        self.raw = raw
        """As the parser shall have it."""
        self.lowered = lowered
        """As it came, in small letters."""
        self.body = body
        """What tells where the body ends; None if there is none."""

    @property
    def is_forwarded(self) -> bool:
        """Whether a proxy may have said for whom, and how, it has got the request."""
        return b"\r\nx-forwarded-" in self.lowered


def read_head(head: bytes) -> Head:
    """Look at a whole head. Raises Malformed."""
    if len(head) > LARGEST_TARGET or not _ORDINARY.fullmatch(head):
        _check_unusual(head)
    lowered = head.lower()
    hosts = lowered.count(b"\r\nhost:")
    is_named = hosts == 1 and _HOST.search(lowered)
    if not is_named and (hosts or not _is_old(head)):
        raise Malformed(problems.BadRequest)
    if not _SPECIAL.search(lowered):
        return Head(head, lowered)
    body = _body_of(head, lowered)
    if b"\r\nexpect:" in lowered and not _EXPECTATION.search(lowered):
        raise Malformed(problems.ExpectationFailed)
    if b"\r\nupgrade:" in lowered and (body or not _SOCKET.match(head)):
        # RFC 9110, section 7.8: a server may ignore it. The parser would take the body for that protocol.
        head = _UPGRADE.sub(b"", head)
    return Head(head, lowered, body, is_special=True)


def forwarded_for(head: bytes) -> list[tuple[bytes, bytes]]:
    """Give the `X-Forwarded-For` fields of a head that is not whole, or is no head, as far as lines are."""
    return [(b"x-forwarded-for", value) for value in _FORWARDED_FOR.findall(head)]


def _check_unusual(head: bytes) -> None:
    check_request_line(head)
    if len(head) > LARGEST_HEADER or head.count(_LINE_END) > MOST_HEADERS + 2:
        raise Malformed(problems.HeadersTooLarge)
    if not _SECTION.fullmatch(head, head.index(_LINE_END) + 2):
        raise Malformed(problems.BadRequest)


def check_request_line(head: bytes) -> None:
    """Look at the first line of what has come of a head. Raises Malformed."""
    line = head[: head.find(b"\n") + 1]
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise Malformed(problems.UriTooLong if len(line) > LARGEST_TARGET else problems.BadRequest)
    method, target, version = match.groups()
    if version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        raise Malformed(problems.VersionNotSupported)
    if method == b"CONNECT":
        raise Malformed(problems.MethodNotImplemented)  # what follows its head would be no HTTP
    if len(target) > LARGEST_TARGET:
        raise Malformed(problems.UriTooLong)
    if not (_is_usable(target) or (target == b"*" and method == b"OPTIONS")):
        raise Malformed(problems.BadRequest)


def check_beginning(beginning: bytes, seen: int) -> None:
    """Look at a head that is not whole yet, of which `seen` bytes were there before. Raises Malformed."""
    if _STRAY_LINE_END.search(beginning, max(0, seen - 1)):
        raise Malformed(problems.BadRequest)
    line_end = beginning.find(b"\n")
    if line_end >= seen:
        check_request_line(beginning)
    elif line_end < 0 and len(beginning) > LARGEST_TARGET + _LONGEST_CHUNK_LINE:
        raise Malformed(problems.UriTooLong)
    if len(beginning) > LARGEST_HEADER:
        raise Malformed(problems.HeadersTooLarge)


def origin_form(target: bytes) -> tuple[bytes, bytes]:
    """Split a target of absolute form into what a target usually is, and the host that it names."""
    match = _TARGET.fullmatch(target)
    assert match
    assert match[1] is not None
    rest = target[match.end(1) :]
    return rest if rest.startswith(b"/") else b"/" + rest, match[1]


def _is_usable(target: bytes) -> bool:
    match = _TARGET.fullmatch(target)
    return match is not None and (match[1] is None or match[1].partition(b":")[0] != b"")


def _is_old(head: bytes) -> bool:
    return head[: head.index(_LINE_END)].endswith(b" HTTP/1.0")


def _body_of(head: bytes, lowered: bytes) -> Sized | Chunked | None:
    lengths, codings = lowered.count(b"\r\ncontent-length:"), lowered.count(b"\r\ntransfer-encoding:")
    if not lengths and not codings:
        return None
    if lengths + codings > 1 or (codings and _is_old(head)):
        raise Malformed(problems.BadRequest)
    if codings:
        _check_coding(lowered)
        return Chunked()
    length = _LENGTH.search(lowered)
    if length is None:
        raise Malformed(problems.BadRequest)
    size = int(length[1])
    return Sized(size) if size else None


def _check_coding(lowered: bytes) -> None:
    if _CODING.search(lowered):
        return
    stated = _CODINGS.search(lowered)
    known = [name.strip(b" \t") for name in stated[1].split(b",")] if stated else []
    # RFC 9112, section 6.1: 501 for a coding that is not known, 400 where the body's end is not.
    ends = known[-1:] == [b"chunked"] and known.count(b"chunked") == 1
    raise Malformed(problems.MethodNotImplemented if ends else problems.BadRequest)


class Sized:
    """A body of a stated length."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def is_whole(self) -> bool:
        """Whether all of it has been taken."""
        return not self._left

    def take(self, data: bytearray) -> int:
        """Say how many bytes from the beginning of `data` belong to it, and count them as taken."""
        taken = min(self._left, len(data), _MOST_AT_ONCE)
        self._left -= taken
        return taken


class Chunked:
    """A body in chunks, and its trailers, which come whole or not at all."""

    __slots__ = ("_extensions", "_left", "is_whole")

    def __init__(self) -> None:
        self.is_whole = False
        """Whether all of it has been taken."""
        self._left = 0
        """Bytes of the chunk, with its line end, that are still to come."""
        self._extensions = 0

    def take(self, data: bytearray) -> int:
        """As `Sized.take`. Raises Malformed."""
        at = 0
        for _ in range(_MOST_CHUNKS_AT_ONCE):
            step = min(self._left, len(data) - at, max(0, _MOST_AT_ONCE - at))
            at += step
            self._left -= step
            if self._left:
                return at
            line_end = data.find(_LINE_END, at, at + _LONGEST_CHUNK_LINE)
            if line_end < 0:
                self._check_beginning(data, at)
                return at
            line = _CHUNK_LINE.fullmatch(data, at, line_end)
            if line is None:
                raise Malformed(problems.BadRequest)
            size = int(line[1], 16)
            if size == 0:
                last = self._last(data, at, line_end)
                self.is_whole = last > 0
                return at + last
            self._extensions += len(line[2] or b"")
            if self._extensions > LARGEST_EXTENSIONS:
                raise Malformed(problems.BadRequest)
            at = line_end + 2
            self._left = size + 2
        return at

    @staticmethod
    def _check_beginning(data: bytearray, start: int) -> None:
        line = bytes(data[start:]).removesuffix(b"\r")
        if len(line) > _LONGEST_CHUNK_LINE or (line and not _CHUNK_LINE.fullmatch(line)):
            raise Malformed(problems.BadRequest)

    @staticmethod
    def _last(data: bytearray, start: int, line_end: int) -> int:
        """Give the length of the last chunk and the trailers, 0 until they are whole."""
        end = data.find(HEAD_END, line_end)
        size = (end if end >= 0 else len(data)) - line_end
        if size > LARGEST_HEADER or data.count(_LINE_END, line_end, line_end + size) > MOST_HEADERS + 2:
            raise Malformed(problems.HeadersTooLarge)
        if end < 0:
            if _STRAY_LINE_END.search(data, line_end):
                raise Malformed(problems.BadRequest)
            return 0
        if not _SECTION.fullmatch(data, line_end + 2, end + 4):
            raise Malformed(problems.BadRequest)
        del data[line_end + 2 : end + 2]  # nobody reads them, and the parser would mind some
        return line_end + 4 - start
