"""JSON of clients, read by one rule everywhere: bounded before objects are made, and strict.

`json.loads` makes whatever a text says: 30,000 objects from 60 KB, the last of two members of one name,
infinity from `1e999`, half a character from `"\\ud800"`. `read` refuses those. `install` puts it in
place of Starlette's, under `Request.json()` and `WebSocket.receive_json()`: FastAPI reads all JSON by these.

The bounds are a document's, however large its route lets bodies be: what costs time and memory are values,
and the errors that validation may find in each. A larger document is one to page, or to read as a stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from math import isfinite
from time import perf_counter
from types import SimpleNamespace
from typing import Any, NoReturn

from starlette import requests, websockets
from starlette.exceptions import HTTPException

from lifeguard.web.alike import MOST_ALIKE, has_too_many_alike
from lifeguard.web.turns import RECORD, Record, turns

LARGEST_DOCUMENT = 2**20
"""Bytes. As objects it takes up to ten times that: one character outside the BMP makes four bytes of each."""
MOST_VALUES = 8192
"""Members of objects and items of arrays, at all depths together."""
MOST_CONTAINERS = 2048
"""Objects and arrays. Each may lack every field of its model, and each of those is an error to be made."""
MOST_DEPTH = 32

_BAD_REQUEST, _PAYLOAD_TOO_LARGE = 400, 413
LARGE = 4096
"""Bytes, above which a document waits for its turn."""
_BOM = "\ufeff"
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_AS_ARRAYS = bytes.maketrans(b"{}", b"[]")
_HALF = re.compile(
    r"\\u[dD](?:[89abAB](?![0-9a-fA-F]{2}\\u[dD][c-fC-F])"
    r"|[c-fC-F](?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]))"
)
"""A first half without its second, or a second without its first."""


class JSONRefused(json.JSONDecodeError):
    """A text that is not JSON, or is JSON that is refused here.

    `pointer` is the place of the fault (RFC 6901); `#` is the whole. `msg` repeats nothing of the text.
    """

    def __init__(self, message: str, *, pointer: str = "#") -> None:
        super().__init__(message, "", 0)
        self.pointer = pointer

    def __str__(self) -> str:
        return self.msg


def read(document: bytes | bytearray | str) -> Any:
    """Parse a client's JSON.

    Raises JSONRefused, which is a ValueError; HTTPException 400 for what is no UTF-8, and 413 above
    `LARGEST_DOCUMENT`.
    """
    raw = document.encode("utf-8", "surrogatepass") if isinstance(document, str) else document
    if len(raw) > LARGEST_DOCUMENT:
        raise HTTPException(_PAYLOAD_TOO_LARGE, f"JSON is read up to {LARGEST_DOCUMENT} bytes.")
    containers = raw.count(b"[") + raw.count(b"{")
    if containers > MOST_DEPTH or raw.count(b",") > MOST_VALUES - MOST_DEPTH:
        _bound(raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HTTPException(_BAD_REQUEST, f"JSON is UTF-8, and byte {error.start} is not.") from None
    if text.startswith(_BOM):
        raise JSONRefused("JSON begins without a byte order mark")
    if "\\u" in text:
        _refuse_half_characters(text)
    value = _decoded(text)
    if len(raw) > LARGE and has_too_many_alike(value):
        raise JSONRefused(f"More than {MOST_ALIKE} numbers of the same hash")
    return value


def _decoded(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except JSONRefused:
        raise
    except json.JSONDecodeError as error:
        raise JSONRefused(f"JSON decode error at character {error.pos}") from None
    except _Twice as error:
        pointer = _place_of_twice(text)
        raise JSONRefused("An object has two members of this name", pointer=pointer) from error
    except ValueError:  # int()'s, of more digits than sys.set_int_max_str_digits() allows: 4300
        _too_large()


def install() -> None:
    """Put `read` where Starlette reads JSON: for every app of this process, and once."""
    setattr(requests.Request, "json", read_body)  # noqa: B010 - a method, to mypy
    setattr(websockets, "json", SimpleNamespace(loads=read, dumps=json.dumps))  # noqa: B010 - a module, to mypy


async def read_body(request: Any) -> Any:  # Any: `_json` is Starlette's own note of it
    """What is in the place of `Request.json()`."""
    if not hasattr(request, "_json"):
        body = await request.body()
        request._json = read(body) if len(body) <= LARGE else await _read_large(body, request.scope)  # noqa: SLF001
    return request._json  # noqa: SLF001


async def _read_large(body: bytes, scope: Any) -> Any:
    record: Record = scope.get(RECORD) or Record()
    await turns().mine(was_refused=record.was_refused)
    record.has_read()
    began = perf_counter()
    is_refused = True
    try:
        document = read(body)
        is_refused = record.was_refused  # and will be again, as far as anybody knows
    finally:
        if is_refused:
            turns().charge(perf_counter() - began)
    return document


def _bound(raw: bytes | bytearray) -> None:
    """Count what is outside of strings, in a few passes in C.

    Raises JSONRefused if it is too much.
    """
    bare = raw.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in raw else raw
    if bare.count(b'"') > 4 * MOST_VALUES:  # two strings a member, so that what follows is bounded as well
        _too_many_values()
    outside = b"".join(bare.split(b'"')[::2])
    containers = outside.count(b"[") + outside.count(b"{")
    if containers > MOST_CONTAINERS:
        raise JSONRefused(f"More than {MOST_CONTAINERS} objects and arrays")
    if outside.count(b",") + containers > MOST_VALUES:
        _too_many_values()
    brackets = outside.translate(_AS_ARRAYS, _NOT_BRACKETS)
    for _ in range(MOST_DEPTH):
        if not brackets or len(brackets) > 2 * MOST_CONTAINERS:
            break
        brackets = brackets.replace(b"[]", b"")  # the innermost, everywhere
    if brackets:
        raise JSONRefused(f"Objects and arrays deeper than {MOST_DEPTH}, or without their end")


def _too_many_values() -> NoReturn:
    raise JSONRefused(f"More than {MOST_VALUES} values")


def _refuse_half_characters(text: str) -> None:
    """Refuse half of a surrogate pair: it is no character, and no UTF-8 can be made of it."""
    if _HALF.search(text.replace(r"\\", "  ")):
        raise JSONRefused("Half of a surrogate pair is no character")


class _Twice(ValueError):
    pass


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Twice
    return members


def _fraction(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        _too_large()
    return number


def _too_large() -> NoReturn:
    raise JSONRefused("A number is too large")


def _no_number(_: str) -> NoReturn:
    raise JSONRefused("NaN and Infinity are no JSON")


def _decoder(members: Callable[[list[tuple[str, Any]]], Any]) -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=members, parse_float=_fraction, parse_constant=_no_number)


_DECODER = _decoder(_members)


class _Name(str):
    """The name that an object has twice, in the place of that object."""

    __slots__ = ()


def _place_of_twice(text: str) -> str:
    """Read the text again, and say where the member is: the first time, only its object was known."""

    def members_or_name(pairs: list[tuple[str, Any]]) -> object:
        seen: set[str] = set()
        for name, value in pairs:
            if isinstance(value, _Name):  # ... deeper than this
                return {name: value}
            if name in seen:
                return _Name(name)
            seen.add(name)
        return dict(pairs)

    return pointer_to(_path_to_name(_decoder(members_or_name).decode(text)) or ())


def _path_to_name(found: object) -> list[str | int] | None:
    if isinstance(found, _Name):
        return [str(found)]
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for step, value in items:
        if (rest := _path_to_name(value)) is not None:
            return [step, *rest]
    return None


def pointer_to(path: Iterable[str | int]) -> str:
    """Give RFC 6901's pointer: `#` is the whole, `#/` would be a member whose name is empty."""
    escaped = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return "".join(["#", *(f"/{step}" for step in escaped)])
