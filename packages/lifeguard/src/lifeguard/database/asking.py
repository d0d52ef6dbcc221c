"""Asking the database whether it is there, and what its errors say of that.

A question has its seconds while this process runs. Those in which it was stopped, or did something else, are
given back, and an error that came in such a time is not believed: the question is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from lifeguard.pool import NO_ANSWER, PoolUnavailable, fault_of

# Seconds: between two looks whether this process runs, and by which a timer is late if it did not. That says
# nothing about the server.
_TICK, _LATE = 0.05, 0.02

_GONE = (
    PoolUnavailable,
    asyncpg.AdminShutdownError,  # 57P01
    asyncpg.CrashShutdownError,  # 57P02
    asyncpg.CannotConnectNowError,  # 57P03
    asyncpg.PostgresConnectionError,  # 08*: the session broke off
    asyncpg.InvalidAuthorizationSpecificationError,  # 28*
)


def says_gone(error: BaseException) -> bool:
    """Whether the error means that the database is gone, not that this piece of work went wrong."""
    return isinstance(error, _GONE)


def is_silence(error: BaseException | None) -> bool:
    """Whether nothing was heard: the server is silent, or this process was stopped while it waited."""
    return isinstance(error, Exception) and fault_of(error).name == NO_ANSWER


def answers(error: BaseException) -> bool:
    """Whether a server that is there sent the error: it is full, or it has no such database."""
    return isinstance(error, asyncpg.PostgresError) and not says_gone(error)


class Question:
    """One question to the database."""

    def __init__(self, question: Callable[[], Awaitable[object]], patience: float) -> None:
        """It is asked for `patience` seconds in which this process runs."""
        self._question = question
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._timer: asyncio.TimerHandle
        self._bound: asyncio.Timeout
        self._disturbed = False
        """Whether this process did not run for some of the time since it was asked."""

    async def answer(self) -> None:
        """Wait for it, and ask again where the error may be due to a time in which this process did not run.

        Raises TimeoutError if no answer came, and what the server or the network said.
        """
        async with asyncio.timeout(self._patience) as self._bound:
            self._look_later()
            try:
                while not await self._ask():
                    pass
            finally:
                self._timer.cancel()

    async def _ask(self) -> bool:
        self._disturbed = False
        try:
            await self._question()
        except Exception as error:
            self._look()
            if answers(error) or not self._disturbed:
                raise
            return False
        return True

    def _look_later(self) -> None:
        self._due = self._loop.time() + _TICK
        self._timer = self._loop.call_later(_TICK, self._look_again)

    def _look_again(self) -> None:
        self._look()
        self._look_later()

    def _look(self) -> None:
        """Give back the time in which this process did not run."""
        late = self._loop.time() - self._due
        due = self._bound.when()
        if late < _LATE or due is None or self._bound.expired():
            return
        self._disturbed = True
        self._due += late
        self._bound.reschedule(due + late)
