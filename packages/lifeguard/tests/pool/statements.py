"""Statements that change the session they run in, and some that only look like it.

The ways of PostgreSQL 18: its SQL commands one by one, the functions of chapter 9 of its manual, and the
modules of its appendix F. Each is run on a server.
"""

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
    "SET role = pg_monitor",
    "SET SESSION my.setting TO 'secret'",
    "SET XML OPTION DOCUMENT",
    'SET "search_path" TO pg_catalog',
    'SET "my"."setting" = \'secret\'',
    "SET constraints.setting = 'secret'",
    "RESET my.greeting",
    "RESET ALL",
    "UPDATE pg_settings SET setting = 'pg_catalog' WHERE name = 'search_path'",
    "UPDATE pg_catalog . pg_settings AS s SET setting = 1234567 WHERE s.name = 'statement_timeout'",
    "UPDATE \"pg_settings\" SET setting = 'pg_catalog' WHERE name LIKE 'search_p%'",
    "UPDATE U&\"pg\\005fsettings\" SET setting = 1234567 WHERE name = 'lock_timeout'",
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
    "SELECT set_config('role', 'pg_monitor', false)",
    "SELECT set_config('my.setting', 'secret', NULL)",
    "SELECT set_config('my.setting', 'secret', 'false')",
    "SELECT set_config('my.setting', 'secret', true = false)",
    "SELECT set_config('my.setting', 'secret', (SELECT false AS true))",
    "SELECT set_config('my.setting', set_config('local.setting', 'secret', false), true)",
    "SELECT pg_catalog /* . */ . /* ( */ set_config -- (\n ('my.setting', 'secret', false)",
    "SELECT * FROM ts_stat('SELECT to_tsvector(set_' || 'config(''my.setting'', ''secret'', false))')",
    "EXPLAIN ANALYZE SELECT set_config('my.setting', 'secret', false)",
    "SELECT 1 FROM pg_advisory_lock(1)",
    "SELECT pg_advisory_lock(4, 5)",
    "SELECT pg_advisory_lock(1), pg_advisory_unlock(1), pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock(2)",
    "SELECT pg_advisory_lock_shared(3)",
    "SELECT pg_try_advisory_lock_shared(4, 5)",
    "SELECT 1 AS a INTO TEMP things",
    "SELECT 1 AS a INTO TEMPORARY TABLE things",
    "SELECT 1 AS a INTO LOCAL TEMP things",
    "SELECT 1 AS a INTO GLOBAL TEMPORARY things",
    "SELECT 1 AS insert INTO TEMP things",
    "(SELECT 1 insert INTO TEMP things)",
    "SELECT 1 AS a INTO pg_temp.things",
    'SELECT 1 AS a INTO "pg_temp" . things',
    "WITH a AS (SELECT 1 AS b) SELECT b INTO TEMP things FROM a",
]
OTHERS = [
    "LISTEN channel",
    "CREATE TEMP TABLE things (a int)",
    "CREATE LOCAL TEMP TABLE things (a int)",
    "CREATE TABLE pg_temp.things AS SELECT 1 AS a",
    "CREATE OR REPLACE TEMP VIEW things AS SELECT 1 AS a",
    "CREATE TEMP RECURSIVE VIEW things (a) AS SELECT 1",
    "CREATE TYPE pg_temp.things AS (a int)",
    "EXPLAIN ANALYZE CREATE TEMP TABLE things AS SELECT 1 AS a",
    "CREATE TEMPORARY TABLE things AS SELECT 1 AS a",
    "CREATE TABLE pg_temp.things (a int)",
    "CREATE TEMP VIEW things AS SELECT 1 AS a",
    "CREATE TEMP SEQUENCE things",
    "CREATE FUNCTION pg_temp.things() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "PREPARE things AS SELECT 1",
    "BEGIN; DECLARE things CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "DO $$ BEGIN PERFORM set_config('my.setting', 'secret', false); END $$",
    'BEGIN; DECLARE "things" NO SCROLL CURSOR WITH /* or without */ HOLD FOR SELECT 1; COMMIT',
    "BEGIN; DECLARE things CURSOR FOR SELECT set_config('my.setting', 'secret', false); FETCH things; COMMIT",
    "PREPARE things AS SELECT set_config('my.setting', 'secret', false); EXECUTE things",
    "DO 'BEGIN SET my.setting = ''secret''; END'",
    "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$",
    "DO E'BEGIN EXECUTE ''\\x44EALLOCATE ALL''; END'",
    "DO $$ BEGIN LOAD 'auto_explain'; END $$",
    "LOAD 'auto_explain'",
    "DISCARD ALL",
    "DEALLOCATE ALL",
    "DEALLOCATE PREPARE ALL",
    "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 1",
]
CHANGES = [*SETTINGS, *CALLS, *OTHERS]

# What the next ones need.
MODULES = """
CREATE EXTENSION dblink; CREATE EXTENSION isn; CREATE EXTENSION pg_trgm; CREATE EXTENSION tablefunc;
CREATE PROCEDURE run(statement text) LANGUAGE plpgsql AS 'BEGIN EXECUTE statement; END';
"""
_SEEDED = "SELECT random() = 0.9851677175347999"
_SETTING_KNOWN = "SELECT current_setting('my.setting', true) = 'secret'"
_CONNECTED = "SELECT dblink_get_connections() IS NOT NULL"
# With a question that is answered with yes in the session, and with no in any other.
UNSEEN_CHANGES = {
    "SELECT setseed(0.5)": _SEEDED,
    'SELECT U&"\\0073etseed"(0.5)': _SEEDED,
    "SET SEED TO 0.5": _SEEDED,
    'BEGIN; SET LOCAL "Seed" = 0.5; ROLLBACK': _SEEDED,
    "SELECT set_config('seed', '0.5', true)": _SEEDED,
    "DO 'BEGIN PERFORM setseed(0.5); END'": _SEEDED,
    "CALL run('SET seed = 0.5')": _SEEDED,
    "CALL run('SET my.setting = secret')": _SETTING_KNOWN,
    "SELECT * FROM crosstab('SELECT 1, 2, set_' || 'config(''my.setting'', ''secret'', false)')"
    " AS (a int, b text)": _SETTING_KNOWN,
    "SELECT set_limit(0.9)": "SELECT show_limit() > 0.8",
    "SELECT isn_weak(true)": "SELECT isn_weak()",
    "SELECT dblink_connect('things', '{dsn}')": _CONNECTED,
    "SELECT dblink_connect_u('things', '{dsn}')": _CONNECTED,
    "SELECT pg_replication_origin_session_setup('things')"
    " FROM pg_replication_origin_create('things')": "SELECT pg_replication_origin_session_is_setup()",
    "SELECT pg_create_physical_replication_slot('things', true, true)": "SELECT count(*) = 1"
    " FROM pg_replication_slots WHERE active_pid = pg_backend_pid()",
}

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
    "SELECT name, setting FROM pg_settings WHERE name = 'search_path'",
    "SELECT set_config('my.setting', concat('a', ', false', 1), true) FROM (SELECT 1) AS a",
    "SELECT 'set_config(', 'pg_advisory_lock(1)', 'INTO TEMP x', 'UPDATE pg_settings', 'pg_temp.x'",
    'SELECT 1 AS temp, 2 AS "INTO TEMP things", 3 AS set_config, 4 AS "pg_advisory_lock"',
    'SELECT 1 AS "; LISTEN channel; "',
    "SELECT $$; SET my.setting = 'secret' $$",
    "SELECT $a$ $$; SET my.setting = 'secret'; $$ $a$",
    "SELECT E'\\'; SET my.setting = ''secret''; --'",
    "SELECT E'a'\n'\\'; SET my.setting = 1; '",
    "SELECT 'a\\' || 'b'",
    "SELECT U&'d\\0061t; SET my.setting = 1'",
    "SELECT 1 /* ; SET my.setting = 1 /* ; LISTEN channel */ ; RESET ALL; */",
    "/*/**/*/ SELECT 1 --; LISTEN channel",
    "SELECT 2*/*;LISTEN channel*/3",
    "BEGIN; DECLARE things CURSOR FOR SELECT 1; FETCH things; MOVE things; CLOSE things; COMMIT",
    "BEGIN; SELECT pg_export_snapshot(); COMMIT",
    "BEGIN; SELECT lo_open(lo_create(0), 131072); COMMIT",
    "SELECT txid_current(), pg_current_xact_id(), random(), random(1, 6)",
    "SELECT pg_notify('channel', 'LISTEN channel')",
    "SELECT count(*) FROM pg_listening_channels()",
    "SELECT name FROM pg_prepared_statements",
    "SELECT pg_logical_emit_message(true, 'a', 'b')",
    "SELECT pg_stat_clear_snapshot()",
    "BEGIN; SET LOCAL ROLE pg_monitor; COMMIT",
    "BEGIN; SET LOCAL SESSION AUTHORIZATION pg_monitor; COMMIT",
    "CHECKPOINT",
]
# Tables whose names look like changes.
TABLES = """
CREATE TABLE things (a int); CREATE TABLE templates (a int); CREATE TABLE temp (a int);
CREATE TABLE temporary_things (a int); CREATE TABLE set_config (setseed int); CREATE TABLE listen (load int);
CREATE TABLE settings (name text, setting text); CREATE TABLE "pg_temp things" (a int);
"""
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
    "INSERT INTO templates VALUES (1)",
    "INSERT INTO temp VALUES (1)",
    "INSERT INTO temporary_things SELECT 1",
    "WITH a AS (SELECT 1) INSERT INTO templates SELECT * FROM a",
    "MERGE INTO temp USING (SELECT 1) AS new ON true WHEN MATCHED THEN DELETE",
    "SELECT a INTO tempo FROM things",
    "UPDATE set_config SET setseed = 1",
    "INSERT INTO listen (load) VALUES (1)",
    "UPDATE settings SET setting = 'pg_settings' WHERE name = 'search_path'",
    'INSERT INTO "pg_temp things" VALUES (1)',
    "INSERT INTO settings VALUES ('INTO TEMP things', 'SELECT set_config(''a'', ''b'', false); LISTEN c')",
]
