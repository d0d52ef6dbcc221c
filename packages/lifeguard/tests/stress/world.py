"""What all deeds share: a pool behind a proxy, and the record of what went wrong."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from lifeguard.pool import Pool, PoolClosing, PoolError
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer

NAME = "stress"
BOUND = 20.0  # seconds within which anything must have ended, whatever was done to it

SETTINGS = {
    "lock_timeout": "500",
    "statement_timeout": "3000",  # milliseconds
}
CHANNEL = "news"
SCHEMA = """
CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO things SELECT n, 0 FROM generate_series(1, 50) AS n;
CREATE TABLE sink (id int NOT NULL, note text NOT NULL);
CREATE TYPE mood AS ENUM ('sad', 'happy');
"""
# 0 on a session that nobody has changed.
LEFT_BEHIND = """
SELECT length(coalesce(current_setting('my.setting', true), ''))
  + (current_setting('search_path') <> '"$user", public')::int
  + (current_user <> session_user)::int
  + (SELECT count(*) FROM pg_listening_channels())
  + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
  + (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())
  + (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)
  + (SELECT count(*) FROM pg_cursors WHERE is_holdable)
  + (pg_current_xact_id_if_assigned() IS NOT NULL)::int
"""


class OwnFailureError(Exception):
    """Raised by what a borrower gave to a call: a source of rows, a sink of them."""


# "The server closed the connection", in all the words that asyncpg and the pool have for it.
LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,  # less 57014, see `World.judge`
    OSError,
)
# What other sessions' locks and DDL may do to a statement.
OTHERS = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
    asyncpg.UndefinedObjectError,  # the enum, between DROP and CREATE
    asyncpg.UndefinedColumnError,
)
_OTHERS_IN_WORDS = ("cache lookup failed for type", "could not resolve query result")


@dataclass
class World:
    """The pool and what is known of it. What must not happen is noted in `wrong`, once for each kind."""

    pool: Pool
    server: PostgresServer
    proxy: Proxy
    database: str
    chance: random.Random
    ended: set[int] = field(default_factory=set)
    """Process ids of sessions that were killed, or whose line was cut: the only ones that may be lost."""
    when_returned: dict[asyncio.Task[Any] | None, Callable[[], None]] = field(default_factory=dict)
    """What a borrower's task wants called once it has given its lease back."""
    done: Counter[str] = field(default_factory=Counter)
    """What was done to its end, by deed, and which errors it met that it had to expect."""
    wrong: dict[str, str] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    """How often each of `wrong` happened."""

    def blame(self, kind: str, detail: str | BaseException = "") -> None:
        if isinstance(detail, BaseException):
            detail = "".join(traceback.format_exception(detail))
        self.wrong.setdefault(kind, detail)
        self.times[kind] += 1

    def judge(self, deed: str, error: BaseException, pid: int | None) -> None:
        """Whether a deed had to expect this error."""
        name = type(error).__name__
        if isinstance(error, PoolClosing):
            self.blame(f"{deed}: PoolClosing while the pool is open", error)
        elif isinstance(error, (PoolError, OwnFailureError)):
            self.done[name] += 1
        elif isinstance(error, asyncpg.QueryCanceledError):
            if "user request" in str(error):
                self.blame(f"{deed}: cancelled by somebody else's cancel", error)
            self.done[name] += 1
        elif isinstance(error, OTHERS) or any(words in str(error) for words in _OTHERS_IN_WORDS):
            self.done[name] += 1
        elif isinstance(error, LOST) and not isinstance(error, TimeoutError):
            if pid not in self.ended:
                self.blame(f"{deed}: lost a session that nobody ended ({name})", error)
            self.done[name] += 1
        else:
            self.blame(f"{deed}: {name}", error)
