"""What a statement would write is seen in its text, as a server sees it in a read-only transaction."""

from random import Random

import asyncpg
import pytest
from lifeguard.pool import what_writes
from lifeguard.pool.writes import known_reads

TABLE = 'CREATE TABLE things (id int, n int, "update" int, "into" text); CREATE SEQUENCE numbers'

READS = [
    "SELECT 1",
    "select 'INSERT INTO things VALUES (1)' -- DELETE FROM things",
    "/* INSERT /* INTO */ things */ SELECT $$UPDATE things SET n = 1$$",
    "VALUES (1), (2)",
    "TABLE things",
    "SHOW work_mem",
    "((SELECT 1) UNION (SELECT 2))",
    "SELECT n AS delete FROM things",
    "SELECT n AS into FROM things",
    'SELECT things.update, "into" FROM things',
    "SELECT max(update ORDER BY update) FROM things",
    "SELECT update, count(*) FROM things GROUP BY update",
    "SELECT substring('share' FOR 2), overlay('abc' placing 'x' from 1 for 1)",
    "SELECT substring('abc' from 1 for update) FROM things",
    "SELECT E'it\\'s; DELETE FROM things'",
    "WITH a AS (SELECT 1 AS update), b AS (SELECT update FROM a) SELECT update FROM b",
    "WITH RECURSIVE a (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM a WHERE n < 3)"
    " SEARCH DEPTH FIRST BY n SET place SELECT n FROM a ORDER BY place",
    "WITH a AS (SELECT 1 AS delete) SELECT a.delete FROM a",
    "EXPLAIN INSERT INTO things VALUES (1)",
    "EXPLAIN (COSTS off) DELETE FROM things",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN (SELECT 1)",
    "SELECT pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1)",
    "SELECT set_config('my.word', 'nextval(', true)",
    "SELECT 1;",
]
WRITES = [
    "INSERT INTO things VALUES (1) RETURNING n",
    "  \n--\n(((/**/ WITH a AS (INSERT INTO things VALUES (1) RETURNING n) SELECT n FROM a)))",
    "UPDATE things SET n = 1 RETURNING n",
    "DELETE FROM things RETURNING n",
    "MERGE INTO things USING (VALUES (1)) AS new ON true WHEN MATCHED THEN DELETE RETURNING n",
    "WITH a AS (SELECT 1) INSERT INTO things SELECT * FROM a",
    "WITH a AS (SELECT 1) UPDATE things SET n = 1",
    "WITH a AS (SELECT 1) DELETE FROM things",
    "WITH a AS NOT MATERIALIZED (SELECT 1), b AS MATERIALIZED (DELETE FROM things RETURNING n) TABLE b",
    'WITH a AS (UPDATE ONLY public."things" SET n = 1 RETURNING n) SELECT n FROM a',
    'WITH a AS (UPDATE U&"th\\0069ngs" AS t SET n = 1 RETURNING n) SELECT n FROM a',
    "WITH a AS (WITH b AS (SELECT 1) DELETE FROM things RETURNING n) SELECT n FROM a",
    "WITH RECURSIVE a (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM a WHERE n < 3)"
    " SEARCH DEPTH FIRST BY n SET place DELETE FROM things",
    "WITH RECURSIVE a (n) AS (VALUES (1) UNION ALL SELECT n FROM a)"
    " CYCLE n SET seen USING path UPDATE things SET n = 1",
    "SELECT 1 INTO others",
    "SELECT n INTO TEMP others FROM things",
    "SELECT n FROM things FOR UPDATE",
    "SELECT n FROM things FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT n FROM (SELECT n FROM things FOR KEY SHARE) AS locked",
    "TABLE things FOR SHARE NOWAIT",
    "SELECT nextval('numbers')",
    "SELECT pg_catalog . \"setval\" /**/ ('numbers', 5)",
    "SELECT lo_create(0)",
    "SELECT U&\"n\\0065xtval\"('numbers')",
    "SELECT * FROM nextval('numbers')",
    "EXPLAIN ANALYZE INSERT INTO things VALUES (1)",
    "EXPLAIN (COSTS off, ANALYZE) DELETE FROM things",
    'EXPLAIN ("analyze") DELETE FROM things',
    "CREATE TABLE others ()",
    "TRUNCATE things",
    "COPY things FROM STDIN",
    "GRANT SELECT ON things TO PUBLIC",
    "COMMENT ON TABLE things IS 'none'",
]
# A server lets these pass in a read-only transaction: they write nothing, or by what they run.
NOT_FOR_READING = [
    "EXPLAIN ANALYZE VERBOSE CREATE TABLE others AS SELECT 1",
    "DO $$ BEGIN DELETE FROM things; END $$",
    "CALL something()",
    "EXECUTE something",
    "PREPARE something AS DELETE FROM things",
    "NOTIFY somebody",
    "VACUUM things",
    "SET work_mem = '1MB'",
    "BEGIN",
    "SELECT pg_notify('somebody', '')",
    "SELECT 1; DELETE FROM things",
    "SELECT '\\'; DELETE FROM things; --'",
    "\u00a0DELETE FROM things",
    "'text'",
]


async def refused_by_the_server(connection: asyncpg.Connection, statement: str) -> bool:
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.ReadOnlySQLTransactionError:
        return True
    finally:
        await transaction.rollback()
    return False


async def test_it_is_refused_if_a_read_only_transaction_refuses_it(database_url: str) -> None:
    known_reads.clear()
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(TABLE)
        for statement in READS:
            assert not what_writes(statement), statement
            assert not await refused_by_the_server(connection, statement), statement
        for statement in WRITES:
            assert what_writes(statement), statement
            if not statement.startswith("COPY"):
                assert await refused_by_the_server(connection, statement), statement
    finally:
        await connection.close()


@pytest.mark.parametrize("statement", NOT_FOR_READING)
def test_so_is_what_runs_others_or_changes_the_session(statement: str) -> None:
    assert what_writes(statement)


@pytest.mark.parametrize(
    "call",
    [
        "pg_create_logical_replication_slot('slot', 'test_decoding')",
        "pg_drop_replication_slot('slot')",
        "pg_replication_slot_advance('slot', '0/0')",
        "* FROM pg_catalog.pg_logical_slot_get_changes('slot', NULL, 1)",
    ],
)
def test_what_moves_a_replication_slot_is_no_read(call: str) -> None:
    assert what_writes(f"SELECT {call}")
    assert not what_writes("SELECT * FROM pg_logical_slot_peek_changes('slot', NULL, 1)")


_QUERIES = [
    "SELECT n FROM things",
    "SELECT n AS delete FROM things",
    "VALUES (1)",
    "SELECT count(*) FROM things WHERE n = 1",
    "SELECT nextval('numbers')",
    "SELECT n FROM things FOR UPDATE",
    "SELECT 'DELETE FROM things'",
]
_CHANGES = [
    "INSERT INTO things VALUES (1)",
    "UPDATE things AS t SET n = 1",
    "DELETE FROM ONLY things",
    "DELETE FROM things USING pg_class WHERE false",
]


def _made_up(random: Random) -> str:
    """A statement put together at random, of parts that may stand there."""

    def query(depth: int) -> str:
        match random.randrange(6 if depth else 1):
            case 1:
                return f"({query(depth - 1)})"
            case 2:
                return f"SELECT * FROM ({query(depth - 1)}) AS update"
            case 3:
                return f"SELECT EXISTS ({query(depth - 1)}) AS merge"
            case 4:
                return f"WITH inner_one AS ({query(depth - 1)}) SELECT * FROM inner_one"
            case _:
                return random.choice(_QUERIES)

    def part() -> str:
        return query(2) if random.random() < 0.6 else f"{random.choice(_CHANGES)} RETURNING 1"

    parts = ", ".join(f"p{number} AS ({part()})" for number in range(random.randrange(3)))
    main = query(1) if random.random() < 0.7 else random.choice(_CHANGES)
    text = f"WITH {parts} {main}" if parts else main
    words = [random.choice((word, word.swapcase() if "'" not in word else word)) for word in text.split(" ")]
    spaces = (" ", "\n", " -- or not ' \n", '/* /* " */ */')
    return "".join(word + (random.choice(spaces) if "'" not in text else " ") for word in words)


async def test_whatever_is_put_together_is_judged_as_the_server_does(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    judged = {True: 0, False: 0}
    try:
        await connection.execute(TABLE)
        await connection.execute("INSERT INTO things VALUES (1, 1)")
        for seed in range(600):
            statement = _made_up(Random(seed))
            try:
                refused = await refused_by_the_server(connection, statement)
            except asyncpg.PostgresError:  # which is not for us to say
                continue
            judged[refused] += 1
            found = what_writes(statement)
            # The server finds these when it runs a part, which it does only if somebody wants the result.
            assert bool(found) == refused or found in {"nextval()", "FOR UPDATE or SHARE"}, statement
    finally:
        await connection.close()
    assert min(judged.values()) > 50, judged


def test_a_text_is_read_once() -> None:
    known_reads.clear()
    assert not what_writes("SELECT 1")
    assert "SELECT 1" in known_reads
    assert what_writes("DELETE FROM things")
    assert "DELETE FROM things" not in known_reads
