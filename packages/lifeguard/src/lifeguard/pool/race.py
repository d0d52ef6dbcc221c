"""The first of several tries to open a session that succeeds, each begun a little after the one before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import asyncpg

from lifeguard.pool.faults import NoHostServes

# Seconds between the starts of two tries: RFC 8305, section 5, "Connection Attempt Delay".
STAGGER = 0.25

# What says "try the next host"; anything else (a wrong password, an unknown database) would be the
# same there, or is a mistake that must be seen. As libpq decides.
NEXT_HOST = (
    OSError,  # a TimeoutError is one
    NoHostServes,
    asyncpg.PostgresConnectionError,  # 08*
    asyncpg.OperatorInterventionError,  # 57*: starting, stopping, recovering
    asyncpg.InsufficientResourcesError,  # 53*: too many connections, no memory, no disk
    asyncpg.TargetServerAttributeNotMatched,
)

T = TypeVar("T")
Tries = Mapping[str, Callable[[], Awaitable[asyncpg.Connection]]]
"""What opens a session, by what it is called in errors."""


async def first(
    tries: Tries, stagger: float, more_tries: Callable[[], Awaitable[Tries]] | None = None
) -> asyncpg.Connection:
    """The first session that one of these opens; each starts when the one before has failed or has taken
    `stagger` seconds. The others are broken off. `more_tries` is awaited again and again meanwhile, for
    others or for the same once more.

    Raises the only try's own error, NoHostServes with everybody's, or at once what is no reason to
    try elsewhere.
    """
    if len(tries) == 1 and more_tries is None:
        (only,) = tries.values()
        return await only()
    return await _Race(tries, stagger, more_tries).run()


async def accompanied(
    attempt: Callable[[], Awaitable[asyncpg.Connection]], is_wanted: Callable[[], bool], every: float
) -> asyncpg.Connection:
    """The session that `attempt` opens, or the same once more beside it: from STAGGER seconds on there is a
    second one, begun anew after `every` seconds, each time if `is_wanted()`.

    Raises what the first one raises. Why a second one failed is not told: there may have been no room for it.
    """
    loop = asyncio.get_running_loop()
    lead = asyncio.ensure_future(_run(attempt))
    under_way = [lead]
    next_at = loop.time() + STAGGER
    try:
        while True:
            await asyncio.wait(
                under_way, timeout=max(0.0, next_at - loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in under_way if task.done()]:
                under_way.remove(task)
                if not (task.cancelled() or task.exception()):
                    return task.result()
            if lead not in under_way:
                return await lead
            if loop.time() >= next_at:
                next_at += every
                await _break_off(under_way[1:])
                under_way[1:] = [asyncio.ensure_future(_run(attempt))] if is_wanted() else []
    finally:
        await _break_off(under_way)


class _Race:
    """One run of `first()`."""

    def __init__(
        self, tries: Tries, stagger: float, more_tries: Callable[[], Awaitable[Tries]] | None
    ) -> None:
        self._tries = dict(tries)
        self._stagger = stagger
        self._more_tries = more_tries
        self._waiting = list(tries)
        self._under_way: dict[asyncio.Task[asyncpg.Connection], str] = {}
        self._looking: asyncio.Task[Tries] | None = None
        self._reasons: dict[str, Exception] = {}
        self._fatal: Exception | None = None
        self._next_at = 0.0

    async def run(self) -> asyncpg.Connection:
        try:
            while self._begin_next() or self._under_way:
                await self._until_something_ends()
                for task in [task for task in self._under_way if task.done()]:
                    if (winner := self._result_of(task)) is not None:
                        return winner
                if self._looking is not None and self._looking.done():
                    self._tries |= self._looking.result()
                    self._waiting += self._looking.result()
                    self._looking = None
        finally:
            if self._looking is not None:
                self._looking.cancel()
            await _break_off(tuple(self._under_way))
        if self._fatal is None and len(self._reasons) == 1:
            (self._fatal,) = self._reasons.values()
        raise self._fatal or _joined(self._reasons, self._tries)

    def _begin_next(self) -> bool:
        if not self._waiting or self._fatal is not None:
            return False
        now = asyncio.get_running_loop().time()
        if self._under_way and now < self._next_at:
            return True
        self._next_at = now + self._stagger
        name = self._waiting.pop(0)
        self._under_way[asyncio.ensure_future(_run(self._tries[name]))] = name
        return True

    async def _until_something_ends(self) -> None:
        if self._more_tries is not None and self._looking is None:
            self._looking = asyncio.ensure_future(_run(self._more_tries))
        more = self._waiting and self._fatal is None
        await asyncio.wait(
            {*self._under_way, self._looking} if self._looking else self._under_way,
            timeout=max(0.0, self._next_at - asyncio.get_running_loop().time()) if more else None,
            return_when=asyncio.FIRST_COMPLETED,
        )

    def _result_of(self, task: asyncio.Task[asyncpg.Connection]) -> asyncpg.Connection | None:
        """What it has opened; None if it failed, and why is known then."""
        if task.cancelled():
            raise asyncio.CancelledError
        error = task.exception()
        name = self._under_way.pop(task)
        if error is None:
            return task.result()
        if not isinstance(error, Exception):
            raise error
        self._reasons[name] = error
        self._next_at = 0.0
        if self._fatal is None and not isinstance(error, NEXT_HOST):
            self._fatal = error
        return None


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


async def _break_off(tasks: Sequence[asyncio.Task[asyncpg.Connection]]) -> None:
    """Cancel the losers, and cut what one of them has opened all the same."""
    for task in tasks:
        task.add_done_callback(_cut)
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STAGGER)


def _cut(task: asyncio.Task[asyncpg.Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


def _joined(reasons: dict[str, Exception], order: Iterable[str]) -> NoHostServes:
    """Everybody's reason in the order of the tries; those of a name's addresses stand for themselves."""
    flat: dict[str, Exception] = {}
    for name in order:
        error = reasons[name]
        flat |= error.reasons if isinstance(error, NoHostServes) else {name: error}
    return NoHostServes(flat)
