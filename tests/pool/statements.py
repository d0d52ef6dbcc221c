"""Statements that change the session they run in, and some that do not."""

SETTINGS = [
    "SET search_path = pg_catalog",
    "SET SESSION statement_timeout = 1234567",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET NAMES 'LATIN1'",
    "SET my.setting = 'secret'",
    "SET local.setting = 'secret'",
    "SET transaction.setting = 'secret'",
    "SET ROLE pg_monitor",
    "SET SESSION AUTHORIZATION pg_monitor",
]
CALLS = [
    "SELECT set_config('search_path', 'pg_catalog', false)",
    "SELECT pg_catalog.set_config('my.setting', 'secret', false)",
    "SELECT \"set_config\"('my.setting', 'secret', false)",
    "SELECT U&\"set\\005fconfig\"('my.setting', 'secret', false)",
    "SELECT set_config('my.setting', ', true)', false)",
    "SELECT set_config('my.setting', 'x', true), set_config('my.setting', 'secret', false)",
    "SELECT set_config('my.setting', 'secret', 1 = 2)",
    "WITH a AS (SELECT set_config('my.setting', 'secret', false)) SELECT * FROM a",
    "VALUES (set_config('my.setting', 'secret', false))",
    "SELECT 1 FROM pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock(2)",
    "SELECT pg_advisory_lock_shared(3)",
    "SELECT pg_try_advisory_lock_shared(4, 5)",
    "SELECT 1 AS a INTO TEMP things",
    "SELECT 1 AS a INTO TEMPORARY TABLE things",
    "SELECT 1 AS a INTO LOCAL TEMP things",
    "SELECT 1 AS a INTO pg_temp.things",
    "WITH a AS (SELECT 1 AS b) SELECT b INTO TEMP things FROM a",
]
OTHERS = [
    "LISTEN channel",
    "CREATE TEMP TABLE things (a int)",
    "CREATE TEMPORARY TABLE things AS SELECT 1 AS a",
    "CREATE TABLE pg_temp.things (a int)",
    "CREATE TEMP VIEW things AS SELECT 1 AS a",
    "CREATE TEMP SEQUENCE things",
    "CREATE FUNCTION pg_temp.things() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "PREPARE things AS SELECT 1",
    "BEGIN; DECLARE things CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "DO $$ BEGIN PERFORM set_config('my.setting', 'secret', false); END $$",
    "DISCARD ALL",
    "DEALLOCATE ALL",
    "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 1",
]
CHANGES = [*SETTINGS, *CALLS, *OTHERS]

TYPICAL_CHANGES = [
    "SET my.setting = 'secret'",
    "SELECT set_config('my.setting', 'secret', false)",
    "SELECT pg_advisory_lock(1)",
    "SELECT 1 AS a INTO TEMP things",
]

DISGUISES = [
    "{}",
    "  \n\t{};",
    "SELECT 1; {}",
    "{}; SELECT 1",
    "-- SELECT 1\n{}",
    "-- SELECT 1\r{}",
    "-- a; SELECT\n{}",
    "/* SELECT 1; */ {}",
    "/* a /* b */ SELECT 1 */ {}",
    "/* a; SELECT */ {}",
    "SELECT 1 /* a /* b */ -- */; {}",
    "SELECT '--'; {}",
    "SELECT '/*'; {} -- */",
    "SELECT ';'; {}",
    "SELECT $$ ; -- $$; {}",
    "SELECT $a$ $$ /* $a$; {}; SELECT $$ */ $$",
    'SELECT 1 AS "--"; {}',
    "SELECT E'\\'--'; {}; SELECT '1'",
    "SELECT E'a'\n'\\' -- ' ; {}",
    "SELECT '\\'; {} -- '",
    "BEGIN; {}; COMMIT",
    "(SELECT 1) UNION (SELECT 2); {}",
]


def lower(statement: str) -> str:
    return statement.lower().replace("asia/tokyo", "Asia/Tokyo")


CLEAN = [
    "SELECT 1",
    "(SELECT 1) UNION (SELECT 2)",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "VALUES (1)",
    "SHOW search_path",
    "NOTIFY channel",
    "SELECT 'SET search_path = pg_catalog'",
    "SELECT 1 -- it's clean; really",
    "/* traceparent='00-1-2-03' */ SELECT 1",
    "-- a question\nSELECT 1",
    "SELECT 1 WHERE '\\d' <> '' -- why",
    "BEGIN; SET LOCAL statement_timeout = 1000; COMMIT",
    "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT",
    "BEGIN; SET CONSTRAINTS ALL DEFERRED; ROLLBACK",
    "START TRANSACTION; SAVEPOINT a; ROLLBACK TO a; RELEASE a; END",
    "SELECT set_config('my.setting', 'x', true)",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
    "TABLE pg_database",
]
WRITES = [
    "INSERT INTO things VALUES (1)",
    "UPDATE things SET a = 2",
    "DELETE FROM things",
    "MERGE INTO things USING (SELECT 1) AS new ON true WHEN NOT MATCHED THEN INSERT VALUES (1)",
    "BEGIN; LOCK TABLE things; COMMIT",
    "TRUNCATE things",
    "GRANT SELECT ON things TO pg_monitor",
    "REVOKE SELECT ON things FROM pg_monitor",
    "COMMENT ON TABLE things IS 'SET my.setting'",
    "ANALYZE things",
    "VACUUM things",
]
