"""Where the passwords are from, if they are asked for: DATABASE_PASSWORD_COMMAND, DATABASE_PASSWORD_FILE, a
function in code."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial

from lifeguard.database import password_command
from lifeguard.pool import PasswordAnswer, PasswordByHost, PasswordUnavailable
from lifeguard.settings import Settings
from lifeguard.settings.environment import note_secret, read_secret

PasswordHook = Callable[[str, int, str], Awaitable[PasswordAnswer]]
"""Gives the password for host, port and user: `Settings.password_for()` says what it may be."""
Password = Callable[[], str] | PasswordByHost
"""What the pool asks."""

KEPT = 300.0
"""Seconds after which the next password is asked for if one says nothing of its expiry: a third of the life
of AWS's tokens, the shortest we know. It is used until the next one is there."""

_PARTS = 2  # of a password with its expiry
_NAMES = ("password", "token", "accessToken")


class PasswordSource:
    """Gives what is asked for passwords, the same to all pools of a database: so one question is enough."""

    def __init__(self, settings: Settings, hook: PasswordHook | None = None) -> None:
        """`hook` wins over what the settings say."""
        self._settings = settings
        self._hook = hook
        self._by_user: dict[str, PasswordByHost] = {}

    @property
    def is_there(self) -> bool:
        """Whether any password is asked for, whatever the URL says."""
        settings = self._settings
        return bool(self._hook or settings.database_password_command or settings.database_password_file)

    def of(self, user: str, *, is_told: bool) -> Password | None:
        """For the passwords of `user`; None where they are what libpq would take. `is_told`: the environment
        has one, so that `Settings.password_for()` is not asked."""
        settings = self._settings
        if user in self._by_user:
            return self._by_user[user]
        if self._hook is not None:
            found = _of_hook(self._hook, user)
        elif settings.database_password_command is not None:
            found = _of_command(settings.database_password_command, user)
        elif settings.database_password_file is not None:
            # Read at every connect, so that a rotated password is picked up.
            return partial(read_secret, settings.database_password_file)
        elif settings.has_password_hook and not is_told:
            found = _of_hook(settings.password_for, user)
        else:
            return None
        self._by_user[user] = found
        return found


def _of_hook(hook: PasswordHook, user: str) -> PasswordByHost:
    async def ask(host: str, port: int) -> PasswordAnswer:
        return _noted(await hook(host, port, user))

    return PasswordByHost(ask)


def _of_command(line: str, user: str) -> PasswordByHost:
    words = shlex.split(line)

    def command(host: str, port: int) -> tuple[str, ...]:
        return tuple(
            word.replace("{host}", host).replace("{port}", str(port)).replace("{user}", user)
            for word in words
        )

    async def ask(host: str, port: int) -> PasswordAnswer:
        return _noted(read_answer(await password_command.run(command(host, port))))

    return PasswordByHost(ask, keep=KEPT, key=command)  # one run for all hosts whose command is the same


def _noted(answer: PasswordAnswer) -> PasswordAnswer:
    """`answer`, of which no text is to tell from now on. Raises PasswordUnavailable if it has expired."""
    password, expiry = answer if isinstance(answer, tuple) and len(answer) == _PARTS else (answer, None)
    if isinstance(password, str):
        note_secret(password, passes=True)
    if isinstance(expiry, datetime):
        expiry = expiry.timestamp() if expiry.tzinfo else None  # without a zone the pool refuses it
    if isinstance(expiry, (int, float)) and (ago := time.time() - expiry) > 0:
        raise PasswordUnavailable(
            f"the password had expired {ago:.0f} s before it was given: it is an old one, or this"
            " machine's clock is wrong"
        )
    return answer


def read_answer(printed: str) -> PasswordAnswer:
    """The password in what a command has printed: its first line, or a member of an object in JSON, where its
    expiry may be as well. Raises PasswordUnavailable, with no word of what was printed."""
    told = _object_in(printed)
    if told is None:
        password: object = printed.partition("\n")[0].rstrip("\r")
    else:
        password = next((told[name] for name in _NAMES if name in told), None)
    if not isinstance(password, str) or not password or "\0" in password:
        wanted = f"one of {', '.join(_NAMES)}" if told is not None else "a password in its first line"
        raise PasswordUnavailable(f"the password's command printed no text for {wanted}")
    note_secret(password, passes=True)
    expiry = None if told is None else _expiry_in(told)
    return password if expiry is None else (password, expiry)


def _object_in(printed: str) -> Mapping[str, object] | None:
    if not printed.lstrip().startswith("{"):
        return None
    try:
        told = json.loads(printed)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _expiry_in(told: Mapping[str, object]) -> datetime | float | None:
    try:
        if (seconds := told.get("expires_in")) is not None:
            return time.time() + float(str(seconds))
        moment = told.get("expires_at", told.get("expires_on"))
        if moment is None:
            return None
        if isinstance(moment, str) and not moment.replace(".", "", 1).isdigit():
            return datetime.fromisoformat(moment)
        return float(str(moment))
    except ValueError:
        raise PasswordUnavailable(
            "the password's command printed an expiry that is neither a time as in RFC 3339 nor seconds"
        ) from None
