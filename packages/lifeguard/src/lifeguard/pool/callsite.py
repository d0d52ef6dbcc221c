"""Where a connection was borrowed: cheap to note at every borrow, made readable for a report."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Protocol, TypeVar

import asyncpg

CallSite = tuple[CodeType, int]
"""A code object and the index of the instruction it was at."""

F = TypeVar("F", bound=Callable[..., Any])


class Caller(Protocol):
    """On whose behalf a connection is borrowed; asked only for a report.

    It may have a `remedy`: what to do instead of using a connection that has been returned.
    """

    @property
    def route(self) -> str | None:
        """Method and path template, or whatever names that kind of call."""

    @property
    def endpoint(self) -> CodeType | None:
        """The code that serves the call."""


class _Whose(Enum):
    """Who wrote a piece of code."""

    USER = auto()
    LIBRARY = auto()
    ENGINE = auto()
    """The pool's and its users' layers, and Python's own: code that borrows on behalf of its callers."""
    EVENT_LOOP = auto()


_event_loop = {str(asyncio.base_events.__file__), str(asyncio.events.__file__), str(asyncio.runners.__file__)}
_engine = [str(Path(__file__).parent) + os.sep]
_standard_library = (str(Path(os.__file__).parent) + os.sep, "<frozen ")
_installed = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})
_database = tuple(str(Path(file).parent) + os.sep for file in (__file__, asyncpg.__file__))
"""Where the frames of who waits for the database are."""
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
_whose: dict[str, _Whose] = {}
"""By file: code objects with the same text are equal, whatever file they are in."""
_for_the_endpoint: dict[str, set[str]] = {}
"""Names of functions by file."""
borrowers: dict[int, CodeType] = {}
"""Code that is neither the engine's nor a library's, by its `id()`: to hash a code object costs ten times as
much. Looking here first saves the hot path a call."""


def look_through(folder: str) -> None:
    """Never name code of this folder as the borrower: it borrows on behalf of its callers."""
    _engine.append(folder + os.sep)
    borrowers.clear()
    _whose.clear()


def borrows_for_the_endpoint(function: F) -> F:
    """Mark a function that borrows for the endpoint and is not called by it, as a framework's dependency."""
    code = function.__code__
    _for_the_endpoint.setdefault(code.co_filename, set()).add(code.co_qualname)
    return function


def call_site_of(frame: FrameType | None) -> CallSite | None:
    """The innermost code, from `frame` on outwards, that is neither the engine's nor a library's. If there is
    none, the innermost of a library. None for code that borrows for the endpoint, or when only the event loop
    is left: a task that is nothing but a query has no caller."""
    library: CallSite | None = None
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        whose = _whose.get(file) or _find_out(file)
        if file in _for_the_endpoint and code.co_qualname in _for_the_endpoint[file]:
            return None
        if whose is _Whose.USER:
            borrowers[id(code)] = code
            return code, frame.f_lasti
        if whose is _Whose.EVENT_LOOP:
            break
        if whose is _Whose.LIBRARY and library is None:
            library = code, frame.f_lasti
        frame = frame.f_back
    return library


def _find_out(file: str) -> _Whose:
    if file in _event_loop:
        whose = _Whose.EVENT_LOOP
    elif file.startswith(tuple(_engine)):
        whose = _Whose.ENGINE
    elif file.startswith(_installed) or _INSTALLED.search(file):
        whose = _Whose.LIBRARY
    else:
        whose = _Whose.ENGINE if file.startswith(_standard_library) else _Whose.USER
    _whose[file] = whose
    return whose


def borrowed_at(site: CallSite | None, caller: Caller | None) -> str | None:
    """Where a connection was borrowed, readable: the endpoint, where it says more than a library's code."""
    if caller is not None and (site is None or _find_out(site[0].co_filename) is _Whose.LIBRARY):
        endpoint = _ask(caller, "endpoint")
        if isinstance(endpoint, CodeType):
            return describe((endpoint, 0))
    return describe(site)


def route_of(caller: Caller | None) -> str | None:
    """The route of the call for which a connection was borrowed."""
    route = None if caller is None else _ask(caller, "route")
    return None if route is None else str(route)


def remedy_of(caller: Caller | None) -> str | None:
    """What to do instead of using a connection that has been returned, if the caller knows."""
    if caller is None or not hasattr(caller, "remedy"):
        return None
    return str(_ask(caller, "remedy"))


def _ask(caller: Caller, what: str) -> object:
    """None if asking fails: an incomplete report must not cost a connection."""
    try:
        return getattr(caller, what)
    except Exception:
        logging.getLogger("lifeguard.pool").exception("the caller of a lease failed to give its %s", what)
        return None


def describe(site: CallSite | None) -> str | None:
    """`file:line in function`."""
    if site is None:
        return None
    code, instruction = site
    line = next((line for start, end, line in code.co_lines() if start <= instruction < end), None)
    return f"{code.co_filename}:{line} in {code.co_qualname}"


def frames_of(task: asyncio.Task[object] | None) -> tuple[str, ...]:
    """The frames in which a task waits now, innermost first; () when it has ended."""
    frames = _frames_of(task)
    return tuple(f"{at.f_code.co_filename}:{at.f_lineno} in {at.f_code.co_qualname}" for at in frames)


def awaited_by(task: asyncio.Task[object] | None) -> str | None:
    """What a task waits for that is not the database, as far as its frames tell: `127.0.0.1:8080 (httpx)`.
    None when it waits for the database, or for what has no name."""
    beyond: list[FrameType] = []
    for frame in _frames_of(task):
        file = frame.f_code.co_filename
        if file.startswith(_database):
            return None
        if _find_out(file) is _Whose.USER:
            break
        beyond.append(frame)
    if not beyond:
        return None
    libraries = [frame for frame in beyond if _find_out(frame.f_code.co_filename) is _Whose.LIBRARY]
    name = str(beyond[0].f_globals.get("__name__")) + "." + beyond[0].f_code.co_qualname
    if libraries:  # the one that was called, not those that it is made of
        name = str(libraries[-1].f_globals.get("__name__")).partition(".")[0]
    address = next((found for frame in beyond if (found := _address_in(frame))), None)
    return f"{address} ({name})" if address else name


def _frames_of(task: asyncio.Task[object] | None) -> list[FrameType]:
    """Innermost first."""
    if task is None or task.done():
        return []
    found: list[FrameType] = []
    awaited: Any = task.get_coro()  # coroutines, generators and plain iterators have no common type
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            found.append(frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return found[::-1]


def _address_in(frame: FrameType) -> str | None:
    """The other end of the connection that a frame works on, `host:port`, where its variables name one."""
    found = frame.f_locals
    with suppress(Exception):  # of a library's properties: a report must not fail for them
        owner = found.get("self")
        for name in ("_transport", "transport"):
            if (transport := getattr(owner, name, None)) and (peer := transport.get_extra_info("peername")):
                return ":".join(map(str, peer[:2])) if isinstance(peer, tuple) else str(peer)
        for host, port in (("host", "port"), ("remote_host", "remote_port")):
            if found.get(host) and found.get(port):
                return f"{found[host]}:{found[port]}"
        url = getattr(found.get("request", owner), "url", None)
        if url is not None and url.host:
            return f"{url.host}:{url.port}" if url.port else str(url.host)
    return None
