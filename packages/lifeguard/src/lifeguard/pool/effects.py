"""What a statement leaves behind in the session.

A returned connection costs no round trip as long as its borrower has not changed the session. The server does
not say whether it has, so the pool reads the statements as the server would: word by word, without
what is in literals and comments. A statement is clean if it begins with a verb known to leave nothing behind
and calls no function known to leave something. Everything else counts as a change. Reading a text costs
microseconds, so the clean ones are remembered.

Read for PostgreSQL 18: its SQL commands, the functions of chapter 9 and of the modules that come with it.

Limits: it cannot be seen what a user's own function, trigger or view does inside (a `SELECT app_login(...)`
that calls `set_config`), nor a text that a DO block or a function puts together as it runs. Mark such a
lease with `Lease.mark_dirty()`, or run the pool with `reset="always"`. Sequences count as no change:
`currval()` and `lastval()` without a `nextval()` before may give an earlier borrower's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from itertools import dropwhile, islice, pairwise


class Effect(IntEnum):
    """What a statement does to its session, the worst last."""

    NONE = 0
    DIRTY = 1
    """A reset undoes it."""
    RUINOUS = 2
    """Only a new session helps: prepared statements that asyncpg relies on are gone, say."""


# -- what changes a session ------------------------------------------------------------------------


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CLEAN_VERBS = words("""
    abort analyze begin checkpoint close cluster comment commit copy declare delete end fetch grant insert
    lock merge move notify refresh reindex release revoke rollback savepoint select show start table
    truncate update vacuum values with
""")
_RUINOUS_VERBS = frozenset(("deallocate", "discard", "load"))
_RUN_A_TEXT_VERBS = frozenset(("call", "do"))

# SET is undone by the end of the transaction when one of these follows, and a name after it. A dot after
# it, as in `SET local.setting = 1`, makes it a setting of an extension.
_UNTIL_THE_END = frozenset(("local", "transaction", "constraints"))

# Functions whose changes a reset undoes; `set_limit` is pg_trgm's.
_DIRTY_CALLS = words("""
    set_config set_limit
    pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
    pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all
""")
# Functions that run a text they are given, or make a query of it: the server's own, tablefunc's, xml2's.
_RUN_A_TEXT_CALLS = words("""
    query_to_xml query_to_xmlschema query_to_xml_and_xmlschema ts_rewrite ts_stat
    connectby crosstab crosstab2 crosstab3 crosstab4 xpath_table
""")
# Only the end of the session undoes these: the state of random(), a backup under way, origins and slots of
# replication, dblink's connections, the mode of module isn before 18, SELinux's label.
_RUINOUS_CALLS = words("""
    setseed pg_backup_start
    pg_replication_origin_session_setup pg_replication_origin_session_reset
    pg_replication_origin_xact_setup pg_replication_origin_xact_reset
    pg_create_physical_replication_slot pg_create_logical_replication_slot
    pg_copy_physical_replication_slot pg_copy_logical_replication_slot
    dblink_connect dblink_connect_u isn_weak sepgsql_setcon
""")
# In a literal whose text is run: what a reset does not undo, also when it is spelt with escapes.
_RUINOUS_TEXT = re.compile(
    rf"\b(?:{'|'.join(sorted(_RUINOUS_VERBS | _RUINOUS_CALLS))}|seed)\b|\\[0-9xu+]", re.IGNORECASE
)


# -- reading ---------------------------------------------------------------------------------------

# Every character from U+0080 on is a letter to the server. The classes say what is not in them: one that has
# all of those in it takes Python milliseconds to compile, at each start.
_LETTER = r"[^\x00-@\[-^`{-\x7f]"
_LETTER_OR_DIGIT = r"[^\x00-/:-@\[-^`{-\x7f]"
_LETTER_DIGIT_OR_DOLLAR = r"[^\x00-#%-/:-@\[-^`{-\x7f]"
_SPACE = r"[ \t\n\r\f\v]"
# A literal may go on in the next line, with the same kind of quotes.
_NEXT_LINE = rf"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:{_SPACE}|--[^\n\r]*[\n\r])*"
_ESCAPING = r"'(?:[^'\\]|\\.|'')*'"
_WITH_ESCAPES = rf"{_ESCAPING}(?:{_NEXT_LINE}{_ESCAPING})*"
_WITHOUT = r"'(?:[^']|'')*'"


def _pieces(plain_literal: str) -> re.Pattern[str]:
    """What the server's scanner (PostgreSQL's scan.l) tells apart, as far as it matters here."""
    return re.compile(
        rf"""
          (?: {_SPACE}+ | --[^\n\r]* )
        | (?P<comment> /\* )
        | (?P<disguised> [uU]&"(?:[^"]|"")*" )
        | (?P<literal> [eE]{_WITH_ESCAPES} | {plain_literal} )
        | (?P<dollars> \$(?:{_LETTER}{_LETTER_OR_DIGIT}*)?\$ ) (?P<body> .*? ) (?P=dollars)
        | (?P<quoted> "(?:[^"]|"")*" )
        | (?P<word> {_LETTER}{_LETTER_DIGIT_OR_DOLLAR}* )
        | (?P<sign> [0-9][\w.]* | . )
        """,
        re.VERBOSE | re.DOTALL,
    )


_STANDARD = _pieces(_WITHOUT)
_NOT_STANDARD = _pieces(_WITH_ESCAPES)  # with `standard_conforming_strings = off`
_BRACKET_OF_COMMENT = re.compile(r"/\*|\*/")

# Tokens: words in lower case; names that were quoted, and literals, with one quote in front; signs.
QUOTED, _LITERAL, UNREADABLE_NAME = '"', "'", '&"'


def _tokens(statement: str, pieces: re.Pattern[str]) -> Iterator[str]:
    at, end = 0, len(statement)
    while at < end:
        piece = pieces.match(statement, at)
        assert piece is not None  # a sign is anything
        at = piece.end()
        match piece.lastgroup:
            case "word":
                yield piece["word"].lower()
            case "sign":
                yield piece["sign"]
            case "quoted":
                yield piece["quoted"][:-1]
            case "literal":
                yield _LITERAL + piece["literal"]
            case "body":
                yield _LITERAL + piece["body"]
            case "disguised":
                yield UNREADABLE_NAME
            case "comment":
                at = _end_of_comment(statement, at)


def _statements(text: str, pieces: re.Pattern[str]) -> Iterator[list[str]]:
    """The tokens of each statement: what is between the semicolons, so at least one."""
    statement: list[str] = []
    for word in _tokens(text, pieces):
        if word == ";":
            yield statement
            statement = []
        else:
            statement.append(word)
    yield statement


def statements(text: str) -> Iterator[list[str]]:
    """The tokens of each statement of `text`. Where it depends on a setting of the session where a literal
    ends, both ways to read it follow each other."""
    yield from _statements(text, _STANDARD)
    if "\\'" in text:
        yield from _statements(text, _NOT_STANDARD)


def _end_of_comment(statement: str, at: int) -> int:
    """Where the comment ends whose opening bracket ends at `at`. Comments nest."""
    depth = 1
    while depth:
        bracket = _BRACKET_OF_COMMENT.search(statement, at)
        if bracket is None:  # the server refuses the whole text
            return len(statement)
        at = bracket.end()
        depth += 1 if bracket.group() == "/*" else -1
    return at


# -- judging ---------------------------------------------------------------------------------------

_NAME = re.compile(rf"{_LETTER}|{QUOTED}")
_TEMPORARY_SCHEMA = re.compile(r"pg_temp(?:_\d+)?")
_OPENING, _CLOSING = frozenset("(["), frozenset(")]")
_ARGUMENTS = 3  # of set_config()
# The setting `seed`, as a name or a literal, does what setseed() does: no RESET and no ROLLBACK undoes it.
_SEED = re.compile(r"""["']?[eE]?'?seed'?""", re.IGNORECASE)
_LONGEST_VERB = 3  # tokens: `SET LOCAL name`

# No change without one of these, besides those that the verb makes.
_TRACES = (
    *("pg_", "temp", "hold", 'u&"'),
    *(n for n in _DIRTY_CALLS | _RUN_A_TEXT_CALLS | _RUINOUS_CALLS if not n.startswith("pg_")),
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
    effect = _effect_of_text(statement, _STANDARD)
    if "\\'" in statement:  # where this literal ends is a setting of the session
        effect = max(effect, _effect_of_text(statement, _NOT_STANDARD))
    if effect is Effect.NONE and len(statement) <= _LONGEST_REMEMBERED:
        if len(known_clean) >= _MOST_REMEMBERED:
            known_clean.clear()  # texts made on the fly; the others are back at their next use
        known_clean.add(statement)
    return effect


def changes_session(statement: str) -> bool:
    """Whether running `statement` leaves something behind in its session."""
    return effect_of(statement) is not Effect.NONE


def _effect_of_text(text: str, pieces: re.Pattern[str]) -> Effect:
    if _is_harmless_but_for_its_verb(text):
        head = list(islice(dropwhile("(".__eq__, _tokens(text, pieces)), _LONGEST_VERB))
        if head and head[0] not in _RUN_A_TEXT_VERBS:
            return _effect_of_verb(head)
    return max(map(_effect_of_statement, _statements(text, pieces)))


def _is_harmless_but_for_its_verb(text: str) -> bool:
    """Whether it is one statement and nothing in it, literals included, looks like a change. Then only its
    verb need be read: to read a long list of VALUES word by word would block the event loop for a while."""
    if ";" in text.rstrip("; \t\n\r\f\v"):
        return False
    lowered = text.lower()
    return not any(trace in lowered for trace in _TRACES)


def _effect_of_statement(tokens: list[str]) -> Effect:
    while tokens and tokens[0] == "(":
        tokens = tokens[1:]
    if not tokens:
        return Effect.NONE
    if UNREADABLE_NAME in tokens:  # which can be the name of anything
        return Effect.RUINOUS
    effect = _effect_of_verb(tokens)
    for at, (word, following) in enumerate(pairwise([*tokens, ""])):
        if word[0] == _LITERAL:
            continue
        name = word.removeprefix(QUOTED)
        if following == "(":
            effect = max(effect, _effect_of_call(name, tokens, at))
        elif (
            (following == "." and _TEMPORARY_SCHEMA.fullmatch(name))
            or (word == "into" and _makes_temporary(tokens, at))
            or (name == "pg_settings" and "update" in tokens)  # a rule of that view calls set_config()
        ):
            effect = max(effect, Effect.DIRTY)
    return effect


def _effect_of_verb(tokens: list[str]) -> Effect:
    verb = tokens[0]
    if verb in _RUN_A_TEXT_VERBS:
        return _effect_of_running_literals(tokens)
    if verb in _RUINOUS_VERBS:
        return Effect.RUINOUS
    if verb == "set" and any(map(_SEED.fullmatch, tokens[1:3])):
        return Effect.RUINOUS
    clean = (verb in _CLEAN_VERBS and not (verb == "declare" and "hold" in tokens)) or (
        verb == "set" and _is_undone_by_the_end(tokens)
    )
    return Effect.NONE if clean else Effect.DIRTY


def _is_undone_by_the_end(tokens: list[str]) -> bool:
    """Whether a SET is one for the transaction only."""
    return (
        len(tokens) >= _LONGEST_VERB
        and tokens[1] in _UNTIL_THE_END
        and _NAME.match(tokens[2]) is not None  # no dot
    )


def _effect_of_call(name: str, tokens: list[str], at: int) -> Effect:
    """Of the call whose name is the word `at`."""
    if name in _RUINOUS_CALLS:
        return Effect.RUINOUS
    if name in _RUN_A_TEXT_CALLS:
        return _effect_of_running_literals(tokens)
    if name == "set_config":
        return _effect_of_set_config(tokens[at + 1 :])
    return Effect.DIRTY if name in _DIRTY_CALLS else Effect.NONE


def _effect_of_running_literals(tokens: list[str]) -> Effect:
    """Of a statement that runs one of its literals, whatever else that says."""
    ruinous = any(word[0] == _LITERAL and _RUINOUS_TEXT.search(word) for word in tokens)
    return Effect.RUINOUS if ruinous else Effect.DIRTY


def _effect_of_set_config(tokens: list[str]) -> Effect:
    """Of the call whose arguments, the first bracket included, begin there: undone by the end of the
    transaction if the third is `true`."""
    arguments: list[list[str]] = [[]]
    depth = 0
    for word in tokens:
        depth += (word in _OPENING) - (word in _CLOSING)
        if not depth:
            break
        if word == "," and depth == 1:
            arguments.append([])
        elif (word, depth) != ("(", 1):
            arguments[-1].append(word)
    if any(map(_SEED.fullmatch, arguments[0])):
        return Effect.RUINOUS
    return Effect.NONE if len(arguments) == _ARGUMENTS and arguments[-1] == ["true"] else Effect.DIRTY


def _makes_temporary(tokens: list[str], into: int) -> bool:
    """Whether the INTO there is followed by TEMP and a name, and is that of a SELECT: a table may be called
    `temp`, and `INSERT INTO temp VALUES (1)` is a plain insert."""
    if into == 1 and tokens[0] in {"insert", "merge"}:
        return False
    after = tokens[into + 1 : into + 3]
    if after[:1] in (["local"], ["global"]):
        after = after[1:]
    return after[:1] in (["temp"], ["temporary"])
