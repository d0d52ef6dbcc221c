"""When a certificate ends, also one that nobody has verified: Python tells no more of that than its bytes.

A certificate is DER (X.690) of RFC 5280: a sequence whose first member is a sequence of version, serial
number, algorithm, issuer and then the validity, which is two times.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

_VERSION = 0xA0
_UTC_TIME = 0x17
_BEFORE_VALIDITY = 3  # serial number, algorithm, issuer
_LONG_FORM = 0x80
_CENTURY_FROM = 50  # RFC 5280, 4.1.2.5.1: years of two digits from here on are of the last century


def expiry(certificate: bytes) -> datetime:
    """The end of its validity. Raises ValueError for what is no certificate in DER."""
    try:
        ((_, whole),) = _members(certificate)
        (_, to_be_signed), *_ = _members(whole)
        members = [member for member in _members(to_be_signed) if member[0] != _VERSION]
        _, (kind, until) = _members(members[_BEFORE_VALIDITY][1])
    except (ValueError, IndexError) as error:
        raise ValueError("it is no certificate in DER") from error
    return _time(until.decode("ascii"), short=kind == _UTC_TIME)


def _time(text: str, *, short: bool) -> datetime:
    if short:
        text = f"{19 if int(text[:2]) >= _CENTURY_FROM else 20}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _members(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the contents of each value."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & _LONG_FORM:
            digits = length & ~_LONG_FORM
            length = int.from_bytes(data[at : at + digits])
            at += digits
        if at + length > len(data):
            raise ValueError("it ends too early")
        yield tag, data[at : at + length]
        at += length
