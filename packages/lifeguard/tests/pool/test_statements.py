"""What `effect_of()` makes of a text: never too little, and of clean statements not too much."""

import asyncio

import asyncpg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lifeguard.pool.effects import _STANDARD, Effect, _tokens, effect_of, known_clean
from lifeguard.testing.servers import PostgresServer

from packages.lifeguard.tests.pool.statements import CHANGES, CLEAN, DISGUISES, WRITES, lower

COMMENTS = ["", " ", "\n", "-- x\n", "-- ' ; \r\n", "/* x */", "/* ; ' -- */", "/**/"]
CLEAN_STATEMENTS = [*CLEAN, *WRITES]


@st.composite
def with_a_change_in_it(draw: st.DrawFn) -> str:
    """Clean statements with a changing one among them, and comments between."""
    statements = draw(st.lists(st.sampled_from(CLEAN_STATEMENTS), max_size=4))
    change = draw(st.sampled_from(CHANGES))
    statements.insert(draw(st.integers(0, len(statements))), draw(st.sampled_from([change, lower(change)])))
    between = st.sampled_from(COMMENTS)
    # A line comment at a statement's end must not swallow the semicolon.
    return "\n;".join(draw(between) + statement + "\n" + draw(between) for statement in statements)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_no_disguise_makes_a_change_look_clean(disguise: str) -> None:
    for change in CHANGES:
        assert effect_of(disguise.format(change)) is not Effect.NONE, change
        assert effect_of(disguise.format(lower(change))) is not Effect.NONE, change


@pytest.mark.parametrize("function", ["query_to_xml", "query_to_xml_and_xmlschema", "xpath_table"])
def test_functions_that_run_a_text_are_changes_also_where_the_test_s_server_has_none(function: str) -> None:
    assert effect_of(f"SELECT {function}($1)") is Effect.DIRTY
    assert effect_of(f"SELECT {function}('SELECT 1')") is Effect.DIRTY
    assert effect_of(f"SELECT {function}('SELECT setseed(1)')") is Effect.RUINOUS


@settings(max_examples=300, deadline=None)
@given(with_a_change_in_it())
def test_a_change_among_clean_statements_is_a_change(text: str) -> None:
    assert effect_of(text) is not Effect.NONE


# A literal with a backslash ends elsewhere if the server has standard_conforming_strings off: what follows it
# is read both ways, and may be a change in one of them.
UNAMBIGUOUS = [statement for statement in CLEAN_STATEMENTS if "\\" not in statement]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(UNAMBIGUOUS), st.sampled_from(COMMENTS)), max_size=4))
def test_clean_statements_together_are_clean(statements: list[tuple[str, str]]) -> None:
    assert effect_of("\n;".join(comment + statement for statement, comment in statements)) is Effect.NONE


# Complete and incomplete pieces of SQL: the server takes about every third text made of them.
WHOLE = [
    "SELECT 1;",
    "SELECT '--';",
    "SELECT '/*', 1;",
    "SELECT $$;--$$;",
    "SELECT $a$/*$$;$a$;",
    "SELECT E'\\'--';",
    "SELECT E'a' -- '\n'\\'--';",
    "SELECT U&'\\0061--';",
    "SELECT a$b$, 1 FROM (SELECT 2 AS a$b$) AS c;",
    'SELECT 1 AS "--";',
    "SELECT '\\';",
    "SELECT ';', '';",
    "BEGIN;",
    "COMMIT;",
    "SET LOCAL my.setting = 'local';",
    "/* x */",
    "/* -- */",
    "/* '; */",
    "/* /* ; */ */",
    "-- x\n",
    "-- ';\r",
    "--\n",
    "-- /*\n",
    ";",
    "\n",
    " ",
    "(SELECT 1);",
]
BROKEN = [
    "SELECT ",
    "--",
    "/*",
    "*/",
    "'",
    "''",
    '"',
    "$$",
    "$a$",
    "a$a$",
    "E'",
    "e'\\'",
    "\\",
    "U&'",
    "(",
    ")",
    "1",
    "\r",
]
SECRETS = [
    "SET my.setting = 'secret'",
    "SELECT set_config('my.setting','secret',false)",
    "SELECT set_config('my.setting',', true)',false)",
    "SELECT set_config('my.setting','a',true), set_config('my.setting','b', false)",
]


def texts() -> st.SearchStrategy[str]:
    pieces = st.lists(st.one_of(*[st.sampled_from(WHOLE)] * 3, st.sampled_from(BROKEN)), max_size=4).map(
        "".join
    )
    return st.tuples(pieces, st.sampled_from(SECRETS), pieces).map("".join)


def test_what_the_server_takes_for_a_change_is_never_read_as_clean(postgres: PostgresServer) -> None:
    with Judge(postgres.dsn()) as judge:

        @settings(max_examples=500, deadline=None)
        @given(texts())
        @example("-- a; SELECT\nSET my.setting = 'secret'")
        @example("/* a /* b */ SELECT */ SET my.setting = 'secret'")
        @example("-- a\rSET my.setting = 'secret'")
        def judged(text: str) -> None:
            if judge.says_it_changes(text):
                judge.changes += 1
                assert effect_of(text) is not Effect.NONE

        judged()
        assert judge.changes > 30  # else this test tests nothing


class Judge:
    """A session of its own, on a loop of its own, that tries statements."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.changes = 0

    def __enter__(self) -> "Judge":
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(asyncpg.connect(self._dsn, statement_cache_size=0))
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()

    def says_it_changes(self, text: str) -> bool:
        return self._runner.run(self._try(text))

    async def _try(self, text: str) -> bool:
        await asyncio.gather(self._connection.execute(text), return_exceptions=True)
        if self._connection.is_in_transaction():
            await self._connection.execute("ROLLBACK")
        setting = await self._connection.fetchval("SELECT current_setting('my.setting', true)")
        if not setting:
            return False
        await self._connection.execute("RESET ALL")
        return True


def test_what_is_remembered_as_clean_stays_bounded() -> None:
    for number in range(10_000):
        assert effect_of(f"SELECT {number}") is Effect.NONE
    assert len(known_clean) < 10_000
    assert effect_of("SELECT " + "1 + " * 5000 + "1") is Effect.NONE
    assert max(map(len, known_clean)) < 5000


def test_letters_are_what_the_server_takes_for_letters() -> None:
    """PostgreSQL's scan.l: a word begins with a letter, an underscore or what is not ASCII, and digits and
    dollars may follow. A number may be followed by letters."""
    for character in map(chr, [*range(0x300), 0xD7FF, 0xFFFF, 0x10000, 0x10FFFF]):
        begins = not character.isascii() or character.isalpha() or character == "_"
        follows = begins or character in "0123456789$"
        is_one = next(_tokens(f"{character}a", _STANDARD), "") == f"{character}a".lower()
        assert is_one == (begins or character in "0123456789"), character
        assert (next(_tokens(f"a{character}", _STANDARD)) == f"a{character}".lower()) == follows, character
