"""All that the roles may do, by the server's own catalogs: what is not listed here is one privilege too many.

On a server and with the very SQL of deploy/postgres, which compose, Kubernetes and the operator run as well.
"""

import asyncpg
import pytest
from lifeguard.database.migrations import upgrade

from app.settings import Settings
from tests.deploy.test_roles import LOGINS
from tests.secured import DATABASE, SecuredServer

SETTINGS = {
    "migrator": {"lock_timeout=3s"},
    "app": {
        "statement_timeout=10s",
        "lock_timeout=3s",
        "idle_in_transaction_session_timeout=30s",
        "temp_file_limit=256MB",
    },
    "monitor": {"default_transaction_read_only=on", "statement_timeout=5s", "temp_file_limit=256MB"},
}
MEMBER_OF = {
    "migrator": set[str](),
    "app": set[str](),
    "monitor": {"pg_monitor", "pg_read_all_settings", "pg_read_all_stats", "pg_stat_scan_tables"},
}

_ATTRIBUTES = """
SELECT attribute FROM pg_roles, LATERAL (VALUES ('superuser', rolsuper), ('createrole', rolcreaterole),
    ('createdb', rolcreatedb), ('replication', rolreplication), ('bypassrls', rolbypassrls))
    AS one(attribute, has)
 WHERE rolname = current_user AND has
"""
_MEMBERSHIPS = """
SELECT rolname FROM pg_roles WHERE rolname <> current_user AND pg_has_role(oid, 'MEMBER')
"""
# template0 takes no connections, whoever asks.
_DATABASES = """
SELECT datname || ' ' || privilege FROM pg_database, unnest('{CONNECT,CREATE,TEMPORARY}'::text[]) privilege
 WHERE datallowconn AND has_database_privilege(oid, privilege)
"""
_SCHEMAS = """
SELECT nspname || ' ' || privilege FROM pg_namespace, unnest('{USAGE,CREATE}'::text[]) privilege
 WHERE has_schema_privilege(oid, privilege)
"""
# What PostgreSQL lets everybody read of its catalogs is left out; tables with rights on columns are in.
_RELATIONS = """
SELECT relnamespace::regnamespace || '.' || relname || ' ' || privilege
  FROM pg_class,
       unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER,MAINTAIN}'::text[]) privilege
 WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
   AND (privilege <> 'SELECT' OR relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema'))
   AND (has_table_privilege(pg_class.oid, privilege)
        OR privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
           AND has_any_column_privilege(pg_class.oid, privilege))
"""
_SEQUENCES = """
SELECT relname || ' ' || privilege FROM pg_class, unnest('{USAGE,SELECT,UPDATE}'::text[]) privilege
 WHERE relkind = 'S' AND has_sequence_privilege(pg_class.oid, privilege)
"""
# Functions that are not volatile change nothing, and call nothing that does.
_FUNCTIONS = """
SELECT DISTINCT proname::text FROM pg_proc
 WHERE provolatile = 'v' AND has_function_privilege(pg_proc.oid, 'EXECUTE')
   AND prorettype NOT IN (SELECT oid FROM pg_type WHERE typname ~ 'trigger|handler|internal')
   AND NOT EXISTS (SELECT FROM unnest(proargtypes) argument WHERE argument = 'internal'::regtype)
"""
_OTHERS = """
SELECT 'language ' || lanname FROM pg_language WHERE lanpltrusted AND has_language_privilege(oid, 'USAGE')
UNION SELECT 'tablespace ' || spcname FROM pg_tablespace WHERE has_tablespace_privilege(oid, 'CREATE')
UNION SELECT 'wrapper ' || fdwname FROM pg_foreign_data_wrapper
       WHERE has_foreign_data_wrapper_privilege(oid, 'USAGE')
UNION SELECT 'server ' || srvname FROM pg_foreign_server WHERE has_server_privilege(oid, 'USAGE')
UNION SELECT 'large object ' || oid FROM pg_largeobject_metadata
UNION SELECT 'parameter ' || parname FROM pg_parameter_acl
       WHERE has_parameter_privilege(parname, 'SET') OR has_parameter_privilege(parname, 'ALTER SYSTEM')
"""

# Values that are another each time; what sequences give; sessions' own notes and messages.
_HARMLESS = """
    array_sample array_shuffle bernoulli system clock_timestamp timeofday random random_normal
    setseed gen_random_uuid uuidv4 uuidv7 currval lastval nextval setval current_query set_config
    pg_notify pg_notification_queue_usage pg_stat_clear_snapshot pg_stat_force_next_flush
    pg_advisory_unlock_all pg_isolation_test_session_is_blocked
"""
# Locks that end with their transaction, which has its limits; what is reset counts on pg_advisory_unlock_all.
_LOCKS = """
    pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock
    pg_try_advisory_xact_lock_shared
"""
# They run a text as SQL, with the rights of who calls them.
_SQL = """
    cursor_to_xml cursor_to_xmlschema query_to_xml query_to_xml_and_xmlschema query_to_xmlschema
    ts_rewrite ts_stat
"""
# States and sizes of the server.
_READING = """
    currtid2 pg_available_wal_summaries pg_blocking_pids pg_collation_actual_version
    pg_control_checkpoint pg_control_init pg_control_recovery pg_control_system
    pg_current_wal_flush_lsn pg_current_wal_insert_lsn pg_current_wal_lsn
    pg_database_collation_actual_version pg_database_size pg_get_loaded_modules
    pg_get_multixact_members pg_get_sequence_data pg_get_wait_events pg_get_wal_replay_pause_state
    pg_get_wal_resource_managers pg_get_wal_summarizer_state pg_indexes_size pg_is_in_recovery
    pg_is_wal_replay_paused pg_jit_available pg_last_committed_xact pg_last_wal_receive_lsn
    pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_lock_status pg_partition_ancestors
    pg_partition_tree pg_prepared_xact pg_relation_size pg_safe_snapshot_blocking_pids
    pg_sequence_last_value pg_stat_get_backend_io pg_stat_get_backend_wal pg_stat_get_io
    pg_stat_get_recovery_prefetch pg_stat_get_xact_blocks_fetched pg_stat_get_xact_blocks_hit
    pg_stat_get_xact_function_calls pg_stat_get_xact_function_self_time
    pg_stat_get_xact_function_total_time pg_stat_get_xact_numscans pg_stat_get_xact_tuples_deleted
    pg_stat_get_xact_tuples_fetched pg_stat_get_xact_tuples_hot_updated
    pg_stat_get_xact_tuples_inserted pg_stat_get_xact_tuples_newpage_updated
    pg_stat_get_xact_tuples_returned pg_stat_get_xact_tuples_updated pg_table_size
    pg_tablespace_size pg_total_relation_size pg_wal_summary_contents pg_xact_commit_timestamp
    pg_xact_commit_timestamp_origin pg_xact_status txid_status
"""
# PostgreSQL lets everybody call them and looks inside for more: superuser, REPLICATION, an owner, a mode.
_GUARDED_INSIDE = """
    amvalidate brin_desummarize_range brin_summarize_new_values brin_summarize_range
    gin_clean_pending_list binary_upgrade_add_sub_rel_state binary_upgrade_create_empty_extension
    binary_upgrade_logical_slot_has_caught_up binary_upgrade_replorigin_advance
    binary_upgrade_set_missing_value binary_upgrade_set_next_array_pg_type_oid
    binary_upgrade_set_next_heap_pg_class_oid binary_upgrade_set_next_heap_relfilenode
    binary_upgrade_set_next_index_pg_class_oid binary_upgrade_set_next_index_relfilenode
    binary_upgrade_set_next_multirange_array_pg_type_oid
    binary_upgrade_set_next_multirange_pg_type_oid binary_upgrade_set_next_pg_authid_oid
    binary_upgrade_set_next_pg_enum_oid binary_upgrade_set_next_pg_tablespace_oid
    binary_upgrade_set_next_pg_type_oid binary_upgrade_set_next_toast_pg_class_oid
    binary_upgrade_set_next_toast_relfilenode binary_upgrade_set_record_init_privs
    pg_clear_attribute_stats pg_clear_relation_stats pg_restore_attribute_stats
    pg_restore_relation_stats pg_copy_logical_replication_slot pg_copy_physical_replication_slot
    pg_create_logical_replication_slot pg_create_physical_replication_slot pg_drop_replication_slot
    pg_logical_slot_get_binary_changes pg_logical_slot_get_changes
    pg_logical_slot_peek_binary_changes pg_logical_slot_peek_changes pg_replication_slot_advance
    pg_sync_replication_slots pg_extension_config_dump pg_import_system_collations pg_nextoid
    pg_stop_making_pinned_objects plpgsql_validator
"""
_OF_PG_MONITOR = """
    pg_backend_memory_contexts pg_get_backend_memory_contexts pg_get_process_memory_contexts
    pg_get_shmem_allocations pg_get_shmem_allocations_numa pg_ls_archive_statusdir pg_ls_logdir
    pg_ls_logicalmapdir pg_ls_logicalsnapdir pg_ls_replslotdir pg_ls_summariesdir pg_ls_tmpdir
    pg_ls_waldir pg_show_replication_origin_status pg_current_logfile pg_get_aios
    pg_get_dsm_registry_allocations
"""
OF_EVERYBODY = set(f"{_HARMLESS}{_LOCKS}{_SQL}{_READING}{_GUARDED_INSIDE}".split())
FUNCTIONS = {
    "migrator": OF_EVERYBODY | {"pg_try_advisory_lock", "pg_advisory_unlock"},
    "app": OF_EVERYBODY | {"pg_logical_emit_message"},
    # What comes with pg_monitor: statistics, and the names and sizes of files of the log and the WAL.
    "monitor": OF_EVERYBODY | set(_OF_PG_MONITOR.split()),
}
OF_ALL_SCHEMAS = {"pg_catalog USAGE", "information_schema USAGE"}
SCHEMAS = {
    "migrator": OF_ALL_SCHEMAS | {"public USAGE", "public CREATE"},
    "app": OF_ALL_SCHEMAS | {"public USAGE"},
    "monitor": OF_ALL_SCHEMAS,
}
# Everybody may UPDATE pg_settings, which is another way to write SET. The rest of it is for pg_monitor.
OF_ALL_RELATIONS = {"pg_catalog.pg_settings UPDATE"}
OTHERS = {"language sql", "language plpgsql"}
"""In which a function can be written by whom a schema lets do so; the pool's reset has a DO block."""


@pytest.fixture(scope="module")
async def empty(secured: SecuredServer) -> SecuredServer:
    """Before the first migration: what a revision leaves to whom is in the tests of the feature."""
    return secured


async def those(connection: asyncpg.Connection, query: str) -> set[str]:
    return {str(row[0]) for row in await connection.fetch(query)}


@pytest.mark.parametrize("role", LOGINS)
async def test_a_role_has_these_privileges_and_no_others(empty: SecuredServer, role: str) -> None:
    async with empty.connect(role) as connection:
        assert await those(connection, _ATTRIBUTES) == set()
        assert await those(connection, _MEMBERSHIPS) == MEMBER_OF[role]
        assert await those(connection, _DATABASES) == {f"{DATABASE} CONNECT"}
        assert await those(connection, _SCHEMAS) == SCHEMAS[role]
        assert await those(connection, _RELATIONS) == OF_ALL_RELATIONS
        assert await those(connection, _SEQUENCES) == set()
        assert await those(connection, _FUNCTIONS) - FUNCTIONS[role] == set()
        assert await those(connection, _OTHERS) == OTHERS


@pytest.mark.parametrize("role", LOGINS)
async def test_a_role_has_these_settings(empty: SecuredServer, role: str) -> None:
    async with empty.server.connect() as admin:
        settings = await admin.fetchval(
            "SELECT setconfig FROM pg_db_role_setting WHERE setrole = $1::text::regrole", role
        )
    assert set(settings) == SETTINGS[role]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT pg_sleep(0)",
        "SELECT pg_sleep_for('0 s')",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock(1, 2)",
        "SELECT pg_logical_emit_message(false, 'a', 'b'::bytea)",
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "SET temp_file_limit = -1",
        "ALTER ROLE app SET temp_file_limit = -1",
        "SET ROLE pg_monitor",
        "COPY (SELECT 1) TO '/dev/null'",
        "CREATE EXTENSION dblink",
        "CREATE PUBLICATION mine",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)
async def test_app_cannot(empty: SecuredServer, statement: str) -> None:
    async with empty.connect("app") as app:
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError)):
            await app.execute(statement)


async def test_a_session_of_app_cannot_fill_the_disk(empty: SecuredServer) -> None:
    async with empty.connect("app") as app:
        await app.execute("SET work_mem = '64kB'")
        await app.execute("RESET ALL")  # as the pool does: back to the role's, and not to none
        assert await app.fetchval("SHOW temp_file_limit") == "256MB"


@pytest.mark.parametrize("role", LOGINS)
async def test_no_role_gets_into_a_database_that_is_made_later(empty: SecuredServer, role: str) -> None:
    """A new one lets everybody in, whatever was taken from PUBLIC on the others."""
    empty.set_up(image=True)
    empty.set_up(image=True)
    async with empty.server.connect() as admin:
        await admin.execute("CREATE DATABASE of_others")
        await admin.execute("SELECT pg_reload_conf()")
        rules = await admin.fetch("SELECT user_name FROM pg_hba_file_rules WHERE error IS NULL")
        assert len([rule for rule in rules if "+app" in rule["user_name"]]) == 2
        try:
            with pytest.raises(
                asyncpg.InvalidAuthorizationSpecificationError, match="conf rejects connection"
            ):
                async with empty.connect(role, "of_others"):
                    pass
            async with empty.connect(role):
                pass
        finally:
            await admin.execute("DROP DATABASE of_others")


async def test_migrations_need_no_more(empty: SecuredServer) -> None:
    await upgrade(Settings.model_validate({"database_url": empty.dsn("migrator")}))
