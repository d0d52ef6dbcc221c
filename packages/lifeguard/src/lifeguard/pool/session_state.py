"""What would stay in a session after its transaction, where a pooler gives that session to somebody else.

Behind one it would be lost to its owner and met by strangers, so it is refused before it is sent. As in
`effects` it cannot be seen what functions, DO blocks and procedures do inside.
"""

from __future__ import annotations

from itertools import pairwise

from lifeguard.pool.effects import QUOTED, statements, words
from lifeguard.pool.errors import SessionStateRefused

_LOCKS = words("""
    pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
""")
_TEMPORARY = frozenset(("temp", "temporary"))
_DROPS = ("on", "commit", "drop")
_UNTIL_THE_END = frozenset(("local", "transaction", "constraints"))

LISTEN = "LISTEN"
_INSTEAD = {
    LISTEN: "listen on a connection of your own that reaches the server without the pooler",
    "SET": "SET LOCAL in a transaction, or give the role the setting (ALTER ROLE ... SET)",
    "PREPARE": "leave it to the driver, which prepares by itself",
    "DISCARD": "leave it out; the pooler resets sessions",
    "DEALLOCATE": "leave it out; it would take statements of others",
    "LOAD": "have the server load it (session_preload_libraries)",
    "a cursor WITH HOLD": "read it inside its transaction",
    "a temporary table": "write ON COMMIT DROP, in a transaction",
    "an advisory lock of the session": "take pg_advisory_xact_lock() in a transaction",
    "set_config()": "pass true as its third argument, in a transaction",
}
_BY_VERB = {
    "listen": LISTEN,
    "discard": "DISCARD",
    "deallocate": "DEALLOCATE",
    "load": "LOAD",
}


def refuse_session_state(text: str) -> None:
    """Raise SessionStateRefused if a statement would leave something in its session."""
    for tokens in statements(text):
        if (what := _what_stays(tokens)) is not None:
            raise refused(what)


def refused(what: str) -> SessionStateRefused:
    """The error about one of these, which says what to do instead."""
    return SessionStateRefused(
        f"{what} was not sent: a pooler is in between, and the next transaction may be in another session;"
        f" {_INSTEAD[what]}. A pooler that keeps sessions apart is no obstacle: POOL_PGBOUNCER=off"
    )


def _what_stays(tokens: list[str]) -> str | None:
    if not tokens:
        return None
    verb, rest = tokens[0], tokens[1:]
    if verb == "set" and not (rest[:1] and rest[0] in _UNTIL_THE_END and rest[1:2] != ["."]):
        return "SET"
    if verb == "prepare" and rest[:1] != ["transaction"]:
        return "PREPARE"
    if verb == "declare" and ("with", "hold") in pairwise(rest):
        return "a cursor WITH HOLD"
    if _TEMPORARY & set(_beginning(verb, tokens)) and not _drops(tokens):
        return "a temporary table"
    return _BY_VERB.get(verb) or _what_calls_leave(tokens)


def _beginning(verb: str, tokens: list[str]) -> list[str]:
    """The words among which TEMP would stand: after CREATE, or after the INTO of a SELECT."""
    if verb == "create":
        return tokens[1:3]
    if verb in {"select", "with"} and "into" in tokens:
        at = tokens.index("into")
        return tokens[at + 1 : at + 3]
    return []


def _drops(tokens: list[str]) -> bool:
    return any(tuple(tokens[at : at + 3]) == _DROPS for at in range(len(tokens)))


def _what_calls_leave(tokens: list[str]) -> str | None:
    for at, word in enumerate(tokens[:-1]):
        if tokens[at + 1] != "(":
            continue
        name = word.removeprefix(QUOTED)
        if name in _LOCKS:
            return "an advisory lock of the session"
        if name == "set_config" and not _is_local(tokens[at + 1 :]):
            return "set_config()"
    return None


def _is_local(tokens: list[str]) -> bool:
    """Whether the last argument of the call that begins there is something else than `false`."""
    depth = 0
    for at, word in enumerate(tokens):
        depth += (word == "(") - (word == ")")
        if not depth:
            return tokens[at - 1] != "false"
    return True


# What is not among these may refuse to be in a transaction, or begin and end some itself.
_IN_TRANSACTION = words("select insert update delete merge with values table explain show")


def may_be_in_transaction(text: str) -> bool:
    """Whether every statement of `text` is one that a transaction may have in it."""
    verbs = [next((word for word in tokens if word != "("), "") for tokens in statements(text) if tokens]
    return bool(verbs) and all(verb in _IN_TRANSACTION for verb in verbs)
