"""Passwords that a function gives: kept until they expire, and asked for once for all who need one."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from datetime import datetime
from functools import partial
from inspect import isawaitable
from time import monotonic
from typing import Any, TypeVar

import asyncpg

from lifeguard.pool.faults import PasswordTimeout, PasswordUnavailable, describe_error
from lifeguard.pool.shared import Shared

T = TypeVar("T")
Answer = str | tuple[str, datetime | float] | None
"""A password, or a password and when it expires: a time with its zone, or seconds since 1970. None leaves
what the URL or libpq's variables and files say."""
Ask = Callable[[], Answer | Awaitable[Answer]]
Known = Mapping["Passwords", str | None]
"""Passwords that were asked for already."""

# The part of a password's life after which the next one is asked for: drawn between these, so that replicas
# which began together do not ask together for ever.
_RENEWED_AFTER = (0.7, 0.8)
# Seconds until it is asked for again when that has failed: a tenth of what is left, within these.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
# Seconds in which a function that is awaited is not asked again after a failure: the pause doubles with each,
# and is drawn between its half and the whole.
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
_PARTS = 2  # of a password with its expiry


class Passwords:
    """What one function gives, for every session that is opened.

    An answer with an expiry is kept until then. One without is asked for at every connect; if `keep` is not
    0 it is kept until a server refuses it or a later one is there, which is asked for after `keep` seconds.

    A function that is awaited is asked again after a failure once a pause is over, which doubles from 0.25 s
    to 8 s, with jitter. Whoever asks before gets that failure at once.
    """

    def __init__(self, ask: Ask, *, keep: float = 0.0) -> None:
        self._ask = ask
        self._keep = keep
        self._question = Shared(self._find, "password")
        self._timeout = 0.0
        self._password: str | None = None
        self._expires_at = self._renew_at = -math.inf
        """By the monotonic clock, so that no change of the date makes a password older or younger."""
        self._is_plain = False
        """Whether the last answer came at once, and without an expiry."""
        self._failure: PasswordUnavailable | None = None
        """The last one, if nothing was given since."""
        self._next_wait = _FIRST_WAIT
        self._asked_again_at = -math.inf

    async def get(self, timeout: float) -> str | None:
        """The one that is kept, or else a new one within `timeout` seconds. Raises PasswordUnavailable."""
        if monotonic() < self._expires_at:
            return self._password
        return await self._ask_anew(timeout)

    async def log_in(self, try_with: Callable[[str | None], Awaitable[T]], timeout: float, known: Known) -> T:
        """Try with the password, the one in `known` if it is there, and once more with a new one if it is
        refused: that refusal is no fault yet. The old one is kept if there is no other: another host may
        take it.

        Raises PasswordUnavailable, and what `try_with` raises.
        """
        password = known[self] if self in known else await self.get(timeout)
        try:
            return await try_with(password)
        except asyncpg.InvalidAuthorizationSpecificationError as refusal:  # 28*, a wrong password among them
            try:
                other = self._password if self._password != password else await self._ask_anew(timeout)
            except PasswordUnavailable as error:
                message = f"{describe_error(refusal)}; and there is no other password: {error}"
                raise PasswordUnavailable(message) from error
            if other == password:
                raise
        return await try_with(other)

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask for the next one, ahead of the expiry."""
        return -math.inf < self._renew_at <= monotonic()

    @property
    def seconds_left(self) -> float | None:
        """Until the one that is kept expires; None if it does not say."""
        left = self._expires_at - monotonic()
        return max(left, 0.0) if math.isfinite(left) else None

    async def renew(self, timeout: float) -> None:
        """Ask for the next one. Raises PasswordUnavailable; the old one is kept until its expiry then."""
        try:
            await self._ask_anew(timeout)
        except PasswordUnavailable:
            left = self.seconds_left
            pause = _LONGEST_PAUSE if left is None else left / 10
            self._renew_at = monotonic() + min(max(pause, _SHORTEST_PAUSE), _LONGEST_PAUSE)
            raise

    def has_changed(self) -> bool:
        """Whether the function gives another one than at the last attempt; not asked of one that is awaited,
        which may take its time, or that says when to ask again."""
        if not self._is_plain or monotonic() < self._expires_at:
            return False
        try:
            return bool(self._ask() != self._password)
        except Exception:  # noqa: BLE001 - the next attempt will say so
            return False

    async def _ask_anew(self, timeout: float) -> str | None:
        failure = self._failure
        if failure is not None and monotonic() < self._asked_again_at:
            raise type(failure)(str(failure)) from failure.__cause__
        self._timeout = timeout
        await self._question.run()
        return self._password

    async def _find(self) -> None:
        is_awaited = False
        try:
            async with asyncio.timeout(self._timeout):
                answer = self._ask()
                is_awaited = isawaitable(answer)
                if isawaitable(answer):
                    answer = await answer
            self._take(answer)
        except Exception as error:  # whatever the function raises
            failure = self._failure_of(error)
            if is_awaited:
                self._wait_after(failure)
            if failure is error:
                raise
            raise failure from error
        self._failure, self._next_wait = None, _FIRST_WAIT
        self._is_plain = not is_awaited and not isinstance(answer, tuple)

    def _failure_of(self, error: Exception) -> PasswordUnavailable:
        if isinstance(error, PasswordUnavailable):
            return error
        if isinstance(error, TimeoutError):
            return PasswordTimeout(str(error) or f"no password within {self._timeout:g} s")
        return PasswordUnavailable(f"no password: {describe_error(error)}")

    def _wait_after(self, failure: PasswordUnavailable) -> None:
        self._failure = failure
        pause = self._next_wait * random.uniform(0.5, 1)  # noqa: S311 - jitter
        self._asked_again_at = monotonic() + pause
        self._next_wait = min(self._next_wait * 2, _LONGEST_WAIT)

    def _take(self, answer: Answer) -> None:
        now, expiry = monotonic(), None
        if isinstance(answer, tuple):
            if len(answer) != _PARTS:
                raise PasswordUnavailable("no password: an answer with an expiry must be (password, expiry)")
            answer, expiry = answer
        if answer is not None and not isinstance(answer, str):
            raise PasswordUnavailable(f"no password: the answer must be text, got {type(answer).__name__}")
        if expiry is not None:
            life = _seconds_until(expiry)
            self._expires_at = now + life
            self._renew_at = now + life * random.uniform(*_RENEWED_AFTER)  # noqa: S311 - jitter
        elif self._keep and answer is not None:
            self._expires_at, self._renew_at = math.inf, now + self._keep
        else:
            self._expires_at = self._renew_at = -math.inf
        self._password = answer


def _seconds_until(expiry: object) -> float:
    if isinstance(expiry, datetime):
        if expiry.tzinfo is None:
            raise PasswordUnavailable("no password: its expiry must have a time zone")
        expiry = expiry.timestamp()
    if not isinstance(expiry, (int, float)) or not math.isfinite(expiry):
        raise PasswordUnavailable(
            f"no password: its expiry must be a datetime or seconds since 1970, got {type(expiry).__name__}"
        )
    return max(expiry - time.time(), 0.0)


class PasswordByHost:
    """`password=` of a pool where each host has a password of its own, as tokens that are signed for one.

    `ask` gets host and port, and answers like a function without arguments. Hosts with the same `key`, by
    default host and port, share one question and its answer. `keep` is that of `Passwords`.
    """

    def __init__(
        self,
        ask: Callable[[str, int], Answer | Awaitable[Answer]],
        *,
        keep: float = 0.0,
        key: Callable[[str, int], Hashable] | None = None,
    ) -> None:
        self._ask = ask
        self._keep = keep
        self._key = key
        self._found: dict[Hashable, Passwords] = {}

    def of(self, host: str, port: int) -> Passwords:
        """Those of one host."""
        key = self._key(host, port) if self._key else (host, port)
        if key not in self._found:
            self._found[key] = Passwords(partial(self._ask, host, port), keep=self._keep)
        return self._found[key]


def split_off_passwords(options: dict[str, Any]) -> tuple[PasswordByHost | None, dict[str, Any]]:
    """What gives the passwords, if a password among `options` is to be asked for, and the other options."""
    given = options.get("password")
    rest = {name: value for name, value in options.items() if name != "password"}
    if isinstance(given, PasswordByHost):
        return given, rest
    if callable(given):
        return PasswordByHost(lambda _host, _port: given(), key=lambda _host, _port: None), rest
    return None, options
