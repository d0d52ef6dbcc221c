"""The parameters of a connection URL: those that asyncpg 0.32 reads itself, those that it hands on to the
server as settings of the session, and what to write instead of others.

A name that neither knows would travel to the server, which then refuses every connection. So it is refused
at the start. What this list lacks can still be set: `options=-c%20name%3Dvalue`.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "gsslib": ("gssapi", "sspi"),
}

_OTHERS_READ = """
host port user password passfile dbname database service krbsrvname sslcert sslkey sslpassword sslrootcert
sslcrl
"""
_READ_BY_ASYNCPG = frozenset(CHOICES).union(_OTHERS_READ.split())

# Settings of PostgreSQL that a session may have from its first packet on, lower case. Those that are
# settings of this service are in _INSTEAD.
_SETTINGS = """
application_name array_nulls bytea_output check_function_bodies client_encoding client_min_messages
commit_delay constraint_exclusion cursor_tuple_fraction datestyle default_statistics_target
default_table_access_method default_tablespace default_text_search_config default_toast_compression
default_transaction_deferrable default_transaction_isolation default_transaction_read_only
effective_cache_size effective_io_concurrency enable_hashagg enable_hashjoin enable_indexonlyscan
enable_indexscan enable_mergejoin enable_nestloop enable_partition_pruning enable_partitionwise_join
enable_seqscan enable_sort event_triggers extra_float_digits from_collapse_limit geqo geqo_threshold
hash_mem_multiplier intervalstyle jit join_collapse_limit lc_messages lc_monetary lc_numeric lc_time
log_duration log_min_duration_statement log_statement maintenance_work_mem max_parallel_workers
max_parallel_workers_per_gather options plan_cache_mode quote_all_identifiers random_page_cost row_security
search_path seq_page_cost session_replication_role standard_conforming_strings synchronous_commit
temp_buffers temp_tablespaces timezone track_functions track_io_timing transform_null_equals work_mem
xmlbinary xmloption
"""
SERVER_SETTINGS = frozenset(_SETTINGS.split())

_NO_LIMITS = "leave it out; the service bounds sessions itself"
_NO_TUNING = "leave it out; behind a pooler its max_prepared_statements must be above 0"
_NO_PROTOCOL = "leave it out; asyncpg cannot do that"
_USE_SSLMODE = "write sslmode=verify-full, or require, which checks no name"

# By its name: libpq's that asyncpg has not (https://www.postgresql.org/docs/18/libpq-connect.html,
# section 32.1.2), this service's own, and those of other drivers and of ORMs.
_INSTEAD = {
    name: instead
    for names, instead in {
        "channel_binding": "leave it out; asyncpg binds no channel. sslmode=verify-full keeps others out",
        "gssencmode gssdelegation": "leave it out; asyncpg encrypts by TLS alone",
        "connect_timeout connectTimeout timeout": "set POOL_CONNECT_TIMEOUT",
        "keepalives keepalives_idle keepalives_interval keepalives_count tcp_keepalives_idle"
        " tcp_keepalives_interval tcp_keepalives_count tcp_user_timeout tcpKeepAlive": "set POOL_KEEPALIVE",
        "client_connection_check_interval idle_session_timeout transaction_timeout": _NO_LIMITS,
        "statement_timeout": "set STATEMENT_TIMEOUT",
        "lock_timeout": "set LOCK_TIMEOUT",
        "idle_in_transaction_session_timeout": "set IDLE_IN_TRANSACTION_TIMEOUT",
        "command_timeout socket_timeout socketTimeout query_timeout": "set COMMAND_TIMEOUT",
        "fallback_application_name ApplicationName": "set SERVICE_NAME",
        "hostaddr": "write the address as the host",
        "load_balance_hosts loadBalanceHosts": "leave it out; hosts are tried in their order",
        "targetServerType": "write target_session_attrs",
        "servicefile": "set PGSERVICEFILE",
        "sslkeylogfile": "set SSLKEYLOGFILE",
        "sslcrldir": "write sslcrl",
        "requiressl ssl tls useSSL sslaccept": _USE_SSLMODE,
        "sslidentity": "write sslcert and sslkey",
        "sslfactory": "write sslrootcert",
        "max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer"
        " oauth_scope replication require_auth requirepeer scram_client_key scram_server_key sslcertmode"
        " sslcompression sslsni async_fallback": _NO_PROTOCOL,
        "schema currentSchema": "write search_path",
        "pgbouncer": "set POOL_PGBOUNCER=on",
        "connection_limit pool_size max_overflow maximumPoolSize pool_max_conns maxsize max_size": (
            "set POOL_MAX_SIZE"
        ),
        "pool_min_conns minsize min_size": "set POOL_MIN_SIZE",
        "pool_timeout": "set POOL_ACQUIRE_TIMEOUT",
        "pool_recycle pool_max_conn_lifetime": "set POOL_MAX_LIFETIME",
        "pool_max_conn_idle_time": "set POOL_IDLE_TIMEOUT",
        "pool_health_check_period": "set POOL_HEALTH_CHECK_INTERVAL",
        "statement_cache_size prepared_statement_cache_size statement_cache_capacity statement_cache_mode"
        " prepareThreshold prepare_threshold prepared_statements binary_parameters"
        " default_query_exec_mode": _NO_TUNING,
        "encoding charset": "leave it out; asyncpg speaks UTF-8",
    }.items()
    for name in names.split()
}
_SSL_MODES_OF_OTHERS = {"no-verify": "require"}

_SHOWABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}")
_CUSTOM_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+")


def is_server_setting(name: str) -> bool:
    """Whether asyncpg hands it on and PostgreSQL takes it: one it knows, or an extension's or one's own."""
    return name.lower() in SERVER_SETTINGS or _CUSTOM_SETTING.fullmatch(name) is not None


def fault(name: str, value: str) -> str | None:
    """Say what must change about a parameter, or None. The value is not repeated: it may be a secret."""
    if allowed := CHOICES.get(name):
        if value in allowed:
            return None
        hint = (
            f"; instead of {value} write {_SSL_MODES_OF_OTHERS[value]}"
            if value in _SSL_MODES_OF_OTHERS
            else ""
        )
        return f"must have {name} one of: {', '.join(allowed)}{hint}"
    if name in _INSTEAD:
        return f"must not have {name}: {_INSTEAD[name]}"
    if name in _READ_BY_ASYNCPG or is_server_setting(name):
        return None
    if not _SHOWABLE.fullmatch(name):
        return "must have parameter names of letters, digits and _"
    close = get_close_matches(name.lower(), sorted(_READ_BY_ASYNCPG | SERVER_SETTINGS), n=1, cutoff=0.75)
    meant = f"is {close[0]} meant?" if close else "asyncpg has no such parameter."
    return f"must not have {name}: {meant} Write another setting of the server as options=-c%20name%3Dvalue"
