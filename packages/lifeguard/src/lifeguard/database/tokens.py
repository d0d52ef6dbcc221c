"""Positions as tokens that clients keep: signed, so that nobody asks for a place that no write has reached.

A token is 44 characters: base64 (RFC 4648, section 5) of version, timeline, place, time and the first 16
bytes of an HMAC-SHA256 of those. It is signed and not encrypted: who takes it apart learns where the WAL was.

All instances of a service have to agree on the key. It is made of the name of the service, that of the
database and a secret: `CONSISTENCY_SECRET`, or without one the `system_identifier` of the cluster, which the
primary, its standbys and therefore all instances share, and no client knows.
"""

from __future__ import annotations

import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest, digest

from lifeguard.database.errors import InvalidToken
from lifeguard.database.position import Position

LENGTH = 44
"""Characters of a token."""

_VERSION = 1
_FIELDS = struct.Struct(">BIQI")  # version, timeline, place, seconds since 1970
_SIGNATURE = 16  # bytes; half of what HMAC-SHA256 gives, as RFC 2104, section 5 allows
_FORM = re.compile(rf"[A-Za-z0-9_-]{{{LENGTH}}}")
_LATEST = 2**32 - 1
_CONTEXT = b"lifeguard consistency token"


class Tokens:
    """Writes and reads the tokens of one database of one service."""

    def __init__(self, secrets: Sequence[str], *, service: str, database: str) -> None:
        """The first of `secrets` signs; what any of them has signed is read, so that they can be changed.
        Without one, `learn()` has to say the secret first."""
        self._context = (service.encode(), database.encode())
        self._keys = [self._key(secret) for secret in secrets]

    @property
    def has_key(self) -> bool:
        return bool(self._keys)

    def learn(self, secret: str) -> None:
        self._keys = [self._key(secret)]

    def _key(self, secret: str) -> bytes:
        hashed = sha256()
        for part in (_CONTEXT, *self._context, secret.encode()):
            hashed.update(len(part).to_bytes(4, "big") + part)
        return hashed.digest()

    def write(self, position: Position) -> str:
        fields = _FIELDS.pack(
            _VERSION, position.timeline, position.lsn, min(max(0, int(position.noted_at)), _LATEST)
        )
        return urlsafe_b64encode(fields + _signature(self._keys[0], fields)).decode("ascii")

    def read(self, token: str) -> Position:
        """Raises InvalidToken for what is none of this database's."""
        if not _FORM.fullmatch(token):
            raise InvalidToken(f"A consistency token has {LENGTH} letters, digits, - and _.")
        raw = urlsafe_b64decode(token)
        fields, signature = raw[: _FIELDS.size], raw[_FIELDS.size :]
        if not any(compare_digest(signature, _signature(key, fields)) for key in self._keys):
            raise InvalidToken("The consistency token is none of this service, or its secret has changed.")
        version, timeline, lsn, noted_at = _FIELDS.unpack(fields)
        if version != _VERSION:
            raise InvalidToken("The consistency token is of another version.")
        return Position(timeline, lsn, float(noted_at))


def _signature(key: bytes, fields: bytes) -> bytes:
    return digest(key, fields, "sha256")[:_SIGNATURE]
