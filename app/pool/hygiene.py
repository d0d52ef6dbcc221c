"""Which statements can leave something behind in the session.

A returned connection costs no round trip as long as nobody changed its session. The server does not
say whether somebody did, so the pool reads the statements: those that begin with a verb known to leave
nothing behind, and name no function known to, are clean; everything else counts as a change. Reading
a text costs microseconds, so the clean ones are remembered.

Limits: a function of the user's own that changes the session inside (a `SELECT app_login(...)` that
calls `set_config`) cannot be seen. Mark such a lease with `Lease.mark_dirty()`, or run the pool with
`reset="always"`. Sequences are no change: `currval()` and `lastval()` without a `nextval()` before may
give an earlier borrower's number. A server with `standard_conforming_strings = off` needs "always", too.
"""

from __future__ import annotations

import re
from enum import IntEnum


class Effect(IntEnum):
    """What a statement does to the session it runs in, from harmless to beyond repair."""

    NONE = 0
    DIRTY = 1
    """A reset undoes it."""
    RUINOUS = 2
    """Only a new session helps: prepared statements that asyncpg believes in are gone, say."""


_CLEAN_VERBS = frozenset(
    [
        "ABORT",
        "ANALYZE",
        "BEGIN",
        "CLUSTER",
        "COMMENT",
        "COMMIT",
        "COPY",
        "DELETE",
        "END",
        "FETCH",
        "GRANT",
        "INSERT",
        "LOCK",
        "MERGE",
        "MOVE",
        "NOTIFY",
        "REFRESH",
        "REINDEX",
        "RELEASE",
        "REVOKE",
        "ROLLBACK",
        "SAVEPOINT",
        "SELECT",
        "SHOW",
        "START",
        "TABLE",
        "TRUNCATE",
        "UPDATE",
        "VACUUM",
        "VALUES",
        "WITH",
    ]
)
_RUINOUS_VERBS = frozenset(("DISCARD", "DEALLOCATE", "LOAD"))

_LEADING = re.compile(r"[\s(]*")
_WORD = re.compile(r"[A-Za-z]+")
# A word must follow: `SET local.setting = 1` is a setting of somebody's extension.
_TRANSACTION_LOCAL_SET = re.compile(r"SET\s+(?:LOCAL|TRANSACTION|CONSTRAINTS)\s+[\w\"]", re.IGNORECASE)
_SUSPECT = re.compile(
    r"set_config|pg_(?:try_)?advisory_(?:un)?lock|dblink_connect|pg_temp"
    r"|\bINTO\s+(?:LOCAL\s+|GLOBAL\s+)?TEMP"
    r'|U&"',  # a name in disguise
    re.IGNORECASE,
)
_SET_CONFIG = re.compile(r"set_config", re.IGNORECASE)
_ARGUMENT = r"\s*(?:'[^']*'|[$\w.]+)(?:::\w+)?\s*,"
_LOCAL_SET_CONFIG = re.compile(rf"set_config\s*\({_ARGUMENT}{_ARGUMENT}\s*true\s*\)", re.IGNORECASE)
_RUINOUS_CALL = re.compile(r"setseed|pg_backup_start|pg_replication_origin_session_setup", re.IGNORECASE)

_COMMENT_MARK = re.compile(r"--|/\*")
_LETTER = r"[A-Za-z_\x80-\U0010ffff]"
# What comments can be confused with is read as one piece.
_PIECE = re.compile(
    rf"""
      (?P<comment> --[^\r\n]* | /\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/ )
    | (?P<nested> /\* )
    | (?P<escapes> [eE]' )
    | '(?:[^']|'')*' | "(?:[^"]|"")*"
    | (?P<dollars> \$(?:{_LETTER}\w*)?\$ ) .*? (?P=dollars)
    | {_LETTER}[\w$\x80-\U0010ffff]*
    """,
    re.VERBOSE | re.DOTALL,
)

# Longer texts are read again at every use rather than kept alive by the memory of them.
_LONGEST_REMEMBERED = 4096
_MOST_REMEMBERED = 4096

known_clean: set[str] = set()
"""Texts found to leave nothing behind. Looking here first makes the usual statement cost nanoseconds."""


def effect_of(statement: str) -> Effect:
    """What running `statement` (one or several, separated by semicolons) does to the session."""
    if statement in known_clean:
        return Effect.NONE
    effect = _read(statement)
    if effect is Effect.NONE and len(statement) <= _LONGEST_REMEMBERED:
        if len(known_clean) >= _MOST_REMEMBERED:
            known_clean.clear()  # texts made on the fly; the lasting ones are back at their next use
        known_clean.add(statement)
    return effect


def _read(statement: str) -> Effect:
    text = _without_comments(statement) if _COMMENT_MARK.search(statement) else statement
    if text is None or _RUINOUS_CALL.search(text):
        return Effect.RUINOUS
    effect = Effect.DIRTY if _calls_a_suspect(text) else Effect.NONE
    # A semicolon inside a literal makes a fragment that is no statement. It can only be taken for
    # a change, which costs a reset, never for a clean statement.
    for fragment in text.split(";"):
        effect = max(effect, _effect_of_verb(fragment))
    return effect


def _without_comments(statement: str) -> str | None:
    """The text with a space for each comment; None when it takes the server to tell where one ends."""
    kept: list[str] = []
    end = 0
    for piece in _PIECE.finditer(statement):
        if piece["nested"] or (piece["escapes"] and "\\" in statement):
            return None
        if piece["comment"]:
            kept.append(statement[end : piece.start()])
            end = piece.end()
    return " ".join([*kept, statement[end:]])


def _effect_of_verb(fragment: str) -> Effect:
    start = _LEADING.match(fragment)
    at = start.end() if start else 0
    if at == len(fragment):
        return Effect.NONE
    word = _WORD.match(fragment, at)
    verb = word.group().upper() if word else ""
    if verb in _CLEAN_VERBS or _TRANSACTION_LOCAL_SET.match(fragment, at):
        return Effect.NONE
    return Effect.RUINOUS if verb in _RUINOUS_VERBS else Effect.DIRTY


def _calls_a_suspect(text: str) -> bool:
    for found in _SUSPECT.finditer(text):
        if not _SET_CONFIG.match(text, found.start()):
            return True
        if not _LOCAL_SET_CONFIG.match(text, found.start()):
            return True
    return False
