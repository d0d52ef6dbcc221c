"""What the engine's own events mean: those of its rooms above the pool, which has its own.

A new event has its line here, or `make generated` fails and names it.
"""

from collections.abc import Mapping

EVENTS: Mapping[str, tuple[str, str]] = {
    "request": (
        "info, warning",
        "One answered request; warning from status 500 on, with `problem` and `error`. 499: the client "
        "hung up. `client` is its address, see docs/security.md#addresses. What was refused before it was "
        "a request (400, 408, 431) has the `method` `unknown` and no `path`.",
    ),
    "handshake": (
        "info",
        "The same of a WebSocket, when it is open (101) or refused.",
    ),
    "socket_failed": (
        "error, warning",
        "A WebSocket's endpoint raised; error with a traceback if nobody planned for it. It was closed "
        "with 1011, with 1013 if trying again may help.",
    ),
    "protections_apart": (
        "info",
        "A middleware of the service's own stands between the engine's, so they are called one by one, which "
        "costs more: `behind` are those of the engine's behind it. One around all leaves them together.",
    ),
    "requests_turned_away": (
        "warning",
        "Requests refused before routing in the last second; `clients` are the ten addresses with most of "
        "them, and how many. See the alert PoolShedding.",
    ),
    "stale_if_error_off": (
        "warning",
        "A route asks for `stale_if_error` and takes the request itself, so nobody can say for whom its "
        "answers are; nothing of it is kept. Declare what it reads: `reason`. Once for each route.",
    ),
    "unforeseen_error": (
        "error",
        "An exception nobody planned for; the client got 500. A mistake: read the traceback.",
    ),
    "answer_broken_off": (
        "error, warning",
        "The same after the answer had begun, in an event stream for instance; warning with `error` and "
        "no traceback if there is a problem for it. The connection was closed, and the line of the "
        "`request` has `broken_off` and the `error`.",
    ),
    "metric_not_served": (
        "error",
        "A metric of the service's own is called like one of ours: rename it, `metric`.",
    ),
    "work_after_answer_failed": (
        "error",
        "The same after the answer: a background task, or a dependency that finishes late; with `error` "
        "and no traceback if there is a problem for it. Its client knows nothing of it.",
    ),
    "breaker_moved": (
        "info, warning",
        "The breaker changed its state. From the second probe of an outage on it is debug, until it "
        "closes. See the alert BreakerOpen.",
    ),
    "readiness": (
        "info",
        "What `/readyz` says has changed; `reasons`.",
    ),
    "readiness_look_failed": (
        "error",
        "The readiness check itself raised; a mistake.",
    ),
    "pool_sized": (
        "info",
        "The server has room for all instances.",
    ),
    "pool_sizing_waits": (
        "debug",
        "The server has not been asked yet.",
    ),
    "pool_takes_most_of_the_server": (
        "warning",
        "All instances together may take more than `POOL_HEADROOM` of it: lower `POOL_MAX_SIZE`, or raise "
        "`max_connections`.",
    ),
    "pool_oversized": (
        "error",
        "More than the server has; not ready until that is mended and the service restarted.",
    ),
    "pool_share": (
        "info",
        "With `POOL_INSTANCES=auto`: so many `instances` share the server, to each a pool of `share` is due, "
        "and this one's `max_size` is what is free of it now. When that has changed. See "
        "docs/operations.md#a-fleet.",
    ),
    "pool_waits_for_share": (
        "info",
        "The other processes have all that is shared out, and will have made room in a few seconds; until "
        "then the pool opens nothing.",
    ),
    "pool_has_no_place": (
        "warning",
        "As many processes as the server has `places` for are there already: this one opens nothing, is not "
        "ready, and tries again every few seconds. Run fewer, or raise `max_connections`. See "
        "docs/operations.md#a-fleet.",
    ),
    "pool_cannot_shrink": (
        "warning",
        "What lanes were promised (`at_least`) is more than the `share` that is due to this pool: it stays "
        "as large as it is, and others get less.",
    ),
    "fleet_not_asked": (
        "debug",
        "The server has not said who else is there; the pool stays as it is.",
    ),
    "replica_out_of_service": (
        "info, warning",
        "Its reads go elsewhere. `replica` is its pool, `host` its server, `reads` where they go, `reason` "
        "why, with `lag_seconds` and `lag_bytes` where they are known. At `info` if it is the primary, which "
        "the replicas' URLs may name as well. "
        "Once, until they are back. See docs/operations.md#a-replica-that-is-behind.",
    ),
    "replica_serves_again": (
        "info",
        "They are back.",
    ),
    "consistency_position_lost": (
        "warning",
        "A read came with a token of a place in the WAL that the primary has not reached: of a write that a "
        "failover or a restored backup has lost. It was served without. Once a minute at most.",
    ),
    "consistency_not_measured": (
        "warning",
        "The primary does not say where a write is in its WAL (`reason`), so reads with its token go to the "
        "primary. Once a minute at most.",
    ),
    "consistency_tokens_unsigned": (
        "warning",
        "There is no `CONSISTENCY_SECRET`, and the server does not tell its `system_identifier` (`reason`): "
        "tokens are signed with the name of the service only. Set the variable.",
    ),
    "consistency_not_asked": (
        "debug",
        "No answer this time about a place in the WAL: `reason`. The primary serves the read.",
    ),
    "read_repeated": (
        "info",
        "The primary answers what `replica` has cancelled (a recovery conflict, `sqlstate`) or left "
        "unanswered. Many: let its replay wait longer (`max_standby_streaming_delay`), or set "
        "`hot_standby_feedback`.",
    ),
    "replica_lag_not_measured": (
        "info",
        "The replica is no standby, or does not say where it is in the WAL: it is read however far behind "
        "it is.",
    ),
    "lag_not_asked": (
        "debug",
        "No answer this time, for a reason that says nothing of the replica: `pool` is busy and its "
        "server lets nobody else in, or the primary is away.",
    ),
    "work_repeated": (
        "info",
        "A transaction or read that failed for no fault of its own is tried again; `error`, `sqlstate`. "
        "Many conflicts: look for rows that everybody writes.",
    ),
    "migration_starts": (
        "info",
        "`migrate` begins.",
    ),
    "schema_ready": (
        "info",
        "`migrate` has brought the schema up to date.",
    ),
    "migration_blocked": (
        "warning",
        "`migrate` meets a table in use: `blocked_by` says by whom, `retry_in` when it is tried again; "
        "without that it goes on waiting, as `CONCURRENTLY` does. See docs/operations.md#migrations.",
    ),
    "migration_not_watched": (
        "debug",
        "There was no second session to find out who is in the way; `blocked_by` stays empty.",
    ),
    "invalid_index": (
        "warning",
        "A `CREATE INDEX CONCURRENTLY` was broken off earlier; `migrate` drops what is left of `index` "
        "and builds it again, or `remedy` says what to do.",
    ),
    "migration_waits": (
        "warning",
        "In development: the database is not there yet, or another checkout has migrated it; `reason`.",
    ),
    "operators_served": (
        "info",
        "Probes, metrics, pool pages and docs are at `url` (`OPS_PORT`).",
    ),
    "settings": (
        "warning",
        "A variable that may be a mistake: a typo, or TLS that is not demanded.",
    ),
    "plans": (
        "info",
        "At the start: `planned` of `routes` routes are answered by plans, the `rest` by FastAPI, each for "
        "its reason. See docs/plans.md.",
    ),
    "plans_off": (
        "info, warning",
        "FastAPI answers all: `PLANS=false`, or, as a warning, plans do not know this FastAPI. See "
        "docs/plans.md.",
    ),
    "traces_on": (
        "info",
        "Tracing is on.",
    ),
    "traces_off": (
        "warning",
        "`OTEL_*` asks for traces, and their packages are missing.",
    ),
    "draining": (
        "info",
        "A signal to stop has come; `in_flight`.",
    ),
    "streams_ended": (
        "info",
        "`DRAIN_STREAMS` were over for that many event streams and WebSockets.",
    ),
    "requests_cut_off": (
        "warning",
        "`DRAIN_TIMEOUT` was too short for them. See the alert DrainTooSlow.",
    ),
    "lane_not_found": (
        "error",
        "The function `of` of a lane (docs/lanes.md#tenants) has raised, or gave what is no name; "
        "`route`, with the traceback. Its requests borrow in the lane of the route. A mistake in it, or a "
        "client that leaves something out: give None for that. Once a minute for each route.",
    ),
    "lane_not_limited": (
        "error",
        "A route that was added while the service runs gives a lane other limits than it has; the first "
        "ones count. `route`, `reason`.",
    ),
    "schema_ahead": (
        "warning",
        "`migrate` leaves the schema as it is: its revision, `current`, is none of this version's. A "
        "newer version has migrated, or another checkout.",
    ),
    "lane_hangs": (
        "warning",
        "A `lane` has held more than half of a pool for more than a second, or its breaker is not closed: "
        "it `holds` so many of `max_size`, the longest for `held_for`. `report` is a sentence that says "
        "what its sessions wait for, `blocked_by` names who has the locks. The server is asked for that "
        "on a session beside the pool, at most every five seconds, for 2 s at most, and not while the "
        "breaker is open. At most once a minute for a lane. See the alert LaneHoldsMost.",
    ),
    "lane_goes_on": (
        "info",
        "It does no more, after `seconds`.",
    ),
    "lane_not_asked": (
        "debug",
        "The server did not say what the sessions wait for; `reason`.",
    ),
    "event_loop_blocked": (
        "warning",
        "In development: code that the loop waited for, for more than 0.1 s; `at` is its place, `stack` "
        "how it was reached, `seconds` how long, `remedy` what to do. Once for each place. See "
        "development.md (docs/development.md#mistakes-that-are-caught).",
    ),
}
"""Each event by its name: its levels, and what it means and what to do. docs/reference is made from this."""
