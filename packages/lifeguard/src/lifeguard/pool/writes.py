"""Which statements write, by their text: what a connection that is lent for reading must not be given.

A server can refuse writes only in a transaction or a session that was told so, which costs a round trip. To
read a text costs microseconds, and only once. A statement reads if it begins with a verb that reads, has no
part that writes (`WITH x AS (DELETE ...)`, `SELECT ... INTO`, `FOR UPDATE`) and calls no function of the
server's own that is refused in a read-only transaction or on a standby, or that moves a replication slot:
what reads is run again where its session is lost, and would skip what a slot has given once.

Limit: what a function of the user's own does inside is not seen; a standby refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import dropwhile

from lifeguard.pool.effects import QUOTED, UNREADABLE_NAME, statements, words

_READING_VERBS = frozenset(("select", "values", "table", "with", "show", "explain"))
_BEGIN_A_QUERY = frozenset(("select", "values", "table", "with", "("))
_WRITING_CALLS = words("""
    nextval setval pg_notify txid_current pg_current_xact_id pg_logical_emit_message dblink_exec
    lo_creat lo_create lo_unlink lo_put lo_from_bytea lo_import lo_export lowrite lo_truncate lo_truncate64
    pg_create_restore_point pg_switch_wal pg_import_system_collations gin_clean_pending_list
    brin_summarize_new_values brin_summarize_range brin_desummarize_range
    pg_create_physical_replication_slot pg_create_logical_replication_slot pg_drop_replication_slot
    pg_copy_physical_replication_slot pg_copy_logical_replication_slot pg_replication_slot_advance
    pg_logical_slot_get_changes pg_logical_slot_get_binary_changes
""")
_LOCKS = (("update",), ("share",), ("no", "key"), ("key", "share"))
_WORD = re.compile(r"[a-z_]+")

# No part of a statement that begins with SELECT, VALUES, TABLE or WITH writes without one of these.
_TRACES = ("update", "delete", "into", "share", ";", 'u&"', *_WRITING_CALLS)
_BEGINNING = re.compile(r"[\s(]*(?:select|values|table|with|show)\b", re.IGNORECASE)

# As in `lifeguard.pool.effects`.
_LONGEST_REMEMBERED = 4096
_MOST_REMEMBERED = 4096

known_reads: set[str] = set()
"""Texts found to read and no more. Looking here first makes the usual statement cost nanoseconds."""


def what_writes(statement: str) -> str:
    """Give the part of `statement` (one or several, separated by semicolons) that may write, as `INSERT`;
    empty if it only reads."""
    if statement in known_reads:
        return ""
    if not (_BEGINNING.match(statement) and _bears_no_trace(statement)):
        for tokens in statements(statement):
            if found := _what_writes(tokens):
                return found
    if len(statement) <= _LONGEST_REMEMBERED:
        if len(known_reads) >= _MOST_REMEMBERED:
            known_reads.clear()
        known_reads.add(statement)
    return ""


def _bears_no_trace(statement: str) -> bool:
    """Whether it need not be read word by word, which takes a long one a while."""
    lowered = statement.lower()
    return not any(trace in lowered for trace in _TRACES)


def _what_writes(tokens: Sequence[str]) -> str:
    tokens = list(dropwhile("(".__eq__, tokens))
    if not tokens or tokens[0] == "show":
        return ""
    verb = tokens[0]
    if verb not in _READING_VERBS:
        return verb.upper() if _WORD.fullmatch(verb) else "what it begins with"
    if verb == "explain":
        return _what_runs(tokens[1:])
    begins: list[str] = [verb]  # what the query or the brackets begin with, from the outside inwards
    for at, word in enumerate(tokens):
        following = tokens[at + 1 : at + 3]
        if word == "(":
            begins.append(following[0] if following else "")
        elif word == ")" and len(begins) > 1:
            begins.pop()
        elif found := _writing_part(tokens, at, in_query=begins[-1] in _BEGIN_A_QUERY):
            return found
    return ""


def _writing_part(tokens: Sequence[str], at: int, *, in_query: bool) -> str:
    """What begins with the word `at`, if that writes."""
    word, following, before = tokens[at], tokens[at + 1 : at + 3], tokens[at - 1] if at else ""
    if following[:1] == ["("]:
        if word == UNREADABLE_NAME:  # which can be that of anything
            return "a call by a name in U&"
        if (name := word.removeprefix(QUOTED)) in _WRITING_CALLS:
            return f"{name}()"
    if word == "into" and before not in {"as", "."}:
        return f"{before.upper()} INTO" if before in {"insert", "merge"} else "SELECT INTO"
    if word == "for" and in_query and any(tuple(following[: len(lock)]) == lock for lock in _LOCKS):
        return "FOR UPDATE or SHARE"
    # Only at its beginning, and after the others of a WITH, can a part be one of these.
    begins = tokens[0] == "with" and (before in {"(", ")"} or "search" in tokens or "cycle" in tokens)
    if begins and word == "delete" and following[:1] == ["from"]:
        return "DELETE"
    return "UPDATE" if begins and word == "update" and "set" in tokens[at + 2 :] else ""


def _what_runs(tokens: Sequence[str]) -> str:
    """What writes of a statement that is explained: nothing if it is not run."""
    rest = list(tokens)
    options: list[str] = []
    if rest[:1] == ["("] and rest[1:2] and rest[1] not in _BEGIN_A_QUERY:
        end = rest.index(")") if ")" in rest else len(rest)
        options, rest = rest[:end], rest[end + 1 :]
    while rest[:1] and rest[0] in {"analyze", "analyse", "verbose"}:
        options.append(rest.pop(0))
    names = {option.removeprefix(QUOTED) for option in options}
    runs = not names.isdisjoint(("analyze", "analyse", UNREADABLE_NAME))
    return _what_writes(rest) if runs else ""
