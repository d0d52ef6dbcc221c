"""The dashboard's rows, from what users feel down to what is being rolled out.

Nothing is asked for that the service does not export, Prometheus does not add (`up`, `ALERTS`) or
`pg_stat_activity` does not have: `make check-deploy` runs every query and wants data from each.
"""

from __future__ import annotations

from deploy.grafana.panels import Panel, Query, Row, Sql

SERVICE = '{job="$job", instance=~"$instance"}'
_ERRORS = '{job="$job", instance=~"$instance", status="5xx"}'
_POOL = '{job="$job", instance=~"$instance", db_client_connection_pool_name=~"$pool"}'
_USED = _POOL.replace("}", ', db_client_connection_state="used"}')
_NAMED_LANES = _POOL.replace("}", ', lane!="other"}')
_OPENED = _POOL.replace("}", ', to="open"}')

_POOL_LEGEND = "{{instance}} {{db_client_connection_pool_name}}"


def _rate(metric: str, selector: str = _POOL) -> str:
    return f"rate({metric}{selector}[$__rate_interval])"


def _quantiles(metric: str, selector: str = _POOL) -> tuple[Query, ...]:
    return tuple(
        Query(f"histogram_quantile({quantile}, sum by (le) ({_rate(f'{metric}_bucket', selector)}))", legend)
        for quantile, legend in ((0.5, "median"), (0.95, "p95"), (0.99, "p99"))
    )


_BORROWED = f"sum({_rate('db_client_connection_wait_time_seconds_count')})"

_TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            title="Requests",
            description="Answers a second, by class of status. Probes and scrapes are not counted.",
            unit="reqps",
            stacked=True,
            queries=(Query(f"sum by (status) ({_rate('http_requests_total', SERVICE)})", "{{status}}"),),
        ),
        Panel(
            title="Errors",
            description="Share of answers with a status from 500 on. Those turned away are among them.",
            unit="percentunit",
            alert="LifeguardErrorBudgetBurnsFast",
            warn_above=0.0144,
            queries=(
                Query(
                    f"(sum({_rate('http_requests_total', _ERRORS)}) or vector(0))"
                    f" / sum({_rate('http_requests_total', SERVICE)})",
                    "failed",
                ),
            ),
        ),
        Panel(
            title="Latency",
            description="Time to the end of the answer, all routes together.",
            unit="s",
            queries=_quantiles("http_request_duration_seconds", SERVICE),
        ),
        Panel(
            title="Requests by route",
            description="Answers a second.",
            unit="reqps",
            queries=(
                Query(
                    f"sum by (handler, method) ({_rate('http_requests_total', SERVICE)})",
                    "{{method}} {{handler}}",
                ),
            ),
        ),
        Panel(
            title="Latency by route",
            description="99 of 100 answers took no longer.",
            unit="s",
            queries=(
                Query(
                    "histogram_quantile(0.99, sum by (le, handler, method)"
                    f" ({_rate('http_request_duration_seconds_bucket', SERVICE)}))",
                    "{{method}} {{handler}}",
                ),
            ),
        ),
        Panel(
            title="Event loop",
            description="Worst delay of the loop in 15 s. Every request of the instance waits for so long.",
            unit="s",
            alert="LifeguardEventLoopBlocked",
            warn_above=0.25,
            queries=(Query(f"event_loop_lag_seconds{SERVICE}", "{{instance}}"),),
        ),
    ),
)

_POOLS = Row(
    "Pool",
    (
        Panel(
            title="Connections",
            description="Of all instances together, by state; the server counts every one of them. The "
            "line is what their pools may open.",
            queries=(
                Query(f"sum by (state) (db_pool_connections{_POOL})", "{{state}}"),
                Query(f"sum(db_client_connection_max{_POOL})", "most allowed"),
            ),
        ),
        Panel(
            title="Utilisation",
            description="Connections in use, of those allowed.",
            unit="percentunit",
            maximum=1,
            alert="LifeguardPoolUtilisationHigh",
            warn_above=0.8,
            queries=(
                Query(
                    f"db_client_connection_count{_USED}"
                    f" / ignoring (db_client_connection_state) db_client_connection_max{_POOL}",
                    _POOL_LEGEND,
                ),
            ),
        ),
        Panel(
            title="Waiting",
            description="Borrowers in the queue.",
            queries=(Query(f"db_client_connection_pending_requests{_POOL}", _POOL_LEGEND),),
        ),
        Panel(
            title="Longest wait",
            description="What the first in the queue has waited so far.",
            unit="s",
            alert="LifeguardPoolStuck",
            warn_above=5,
            queries=(Query(f"db_pool_oldest_wait_seconds{_POOL}", _POOL_LEGEND),),
        ),
        Panel(
            title="Standing queue",
            description="Time since nobody waited. It grows while more work arrives than the database does, "
            "however short each wait is.",
            unit="s",
            alert="LifeguardPoolQueueStanding",
            warn_above=5,
            queries=(Query(f"db_pool_standing_queue_seconds{_POOL}", _POOL_LEGEND),),
        ),
        Panel(
            title="Wait for a connection",
            description="Of those who got one. Next to nothing as long as the pool is large enough.",
            unit="s",
            alert="LifeguardPoolWaitSlow",
            warn_above=0.25,
            queries=_quantiles("db_client_connection_wait_time_seconds"),
        ),
        Panel(
            title="Use of a connection",
            description="From borrowing to return. It rises when the database becomes slow, or when code "
            "does something else meanwhile.",
            unit="s",
            queries=_quantiles("db_client_connection_use_time_seconds"),
        ),
        Panel(
            title="Opening a connection",
            description="Network, TLS and login included. Nobody waits for it unless the pool has to grow.",
            unit="s",
            queries=_quantiles("db_client_connection_create_time_seconds"),
        ),
        Panel(
            title="Churn",
            description="Connections opened, and closed by reason. A trickle of `lifetime` and `idle` is "
            "as it should be.",
            unit="ops",
            queries=(
                Query(f"sum({_rate('db_pool_opened_total')})", "opened"),
                Query(f"sum by (reason) ({_rate('db_pool_closed_total')})", "closed: {{reason}}"),
            ),
        ),
        Panel(
            title="Reuse",
            description="Share of borrows that needed no new connection; near 100 % once the pool is warm.",
            unit="percentunit",
            maximum=1,
            queries=(
                Query(
                    f"clamp_min(1 - sum({_rate('db_pool_opened_total')}) / {_BORROWED}, 0)",
                    "without a new one",
                ),
            ),
        ),
        Panel(
            title="Borrows and resets",
            description="Leases given a second, and sessions that had been changed and were reset.",
            unit="ops",
            queries=(
                Query(_BORROWED, "borrowed"),
                Query(f"sum({_rate('db_pool_resets_total')})", "reset"),
            ),
        ),
        Panel(
            title="Leaks",
            description="Leases held too long, dropped, or borrowed on top of another. The log says where.",
            alert="LifeguardPoolLeak",
            queries=(
                Query(f"sum by (kind) (increase(db_pool_leaks_total{_POOL}[$__rate_interval]))", "{{kind}}"),
            ),
        ),
        Panel(
            title="Not returned",
            description="The least that was in use in ten minutes, and what is in use beyond the leases that "
            "ended. Both rise when connections are lost one by one; neither when there is more work.",
            alert="LifeguardPoolSlowLeak",
            queries=(
                Query(f"lifeguard:pool_used:min10m{_POOL}", f"least: {_POOL_LEGEND}"),
                Query(f"lifeguard:pool_not_returned:avg10m{_POOL}", f"not returned: {_POOL_LEGEND}"),
            ),
        ),
    ),
)

_PROTECTION = Row(
    "Shedding and breaker",
    (
        Panel(
            title="Turned away",
            description="Borrowers a second, by reason: `queue_target` and `stale` are overload, `deadline` "
            "is clients with short budgets, `queue_full` a burst, `lane_breaker` one lane that hangs.",
            unit="reqps",
            stacked=True,
            alert="LifeguardPoolShedding",
            queries=(Query(f"sum by (reason) ({_rate('db_pool_shed_total')})", "{{reason}}"),),
        ),
        Panel(
            title="Share turned away",
            description="Of all who asked for a connection; those who waited in vain included.",
            unit="percentunit",
            alert="LifeguardPoolRefusing",
            warn_above=0.05,
            queries=(Query(f"lifeguard:pool_refused:ratio1m{_POOL}", _POOL_LEGEND),),
        ),
        Panel(
            title="Waited in vain",
            description="Borrowers a second who used their whole budget up.",
            unit="reqps",
            alert="LifeguardPoolRefusing",
            queries=(
                Query(
                    "sum by (instance, db_client_connection_pool_name)"
                    f" ({_rate('db_client_connection_timeouts_total')})",
                    _POOL_LEGEND,
                ),
            ),
        ),
        Panel(
            title="Breaker",
            description="Open and half-open refuse everybody; the database is asked in the background.",
            kind="state-timeline",
            alert="LifeguardBreakerOpen",
            names={0: ("closed", "green"), 1: ("half-open", "yellow"), 2: ("open", "red")},
            queries=(Query(f"db_pool_breaker_state{_POOL}", _POOL_LEGEND),),
        ),
        Panel(
            title="Breaker opened, connects failed",
            description="How often, a second. A breaker that opens again and again is an alert of its own, "
            "LifeguardBreakerFlapping.",
            unit="ops",
            alert="LifeguardConnectFailures",
            queries=(
                Query(f"sum({_rate('db_pool_open_failures_total')})", "attempts to connect that failed"),
                Query(f"sum({_rate('db_pool_breaker_transitions_total', _OPENED)})", "breaker opened"),
            ),
        ),
        Panel(
            title="Older answers",
            description="Errors a second that were answered by an older answer, for routes that ask for it.",
            unit="reqps",
            queries=(
                Query(f"sum by (handler) ({_rate('app_stale_answers_total', SERVICE)})", "{{handler}}"),
            ),
        ),
    ),
)

_LANE_LEGEND = "{{lane}}, {{instance}} {{db_client_connection_pool_name}}"
_LANES = Row(
    "Lanes: routes, tenants, background work",
    (
        Panel(
            title="In use by lane",
            description="Connections that each lane holds: the busiest lanes by name, the rest as `other`.",
            stacked=True,
            alert="LifeguardLaneHoldsMost",
            queries=(Query(f"sum by (lane) (db_pool_lane_used{_POOL})", "{{lane}}"),),
        ),
        Panel(
            title="Largest share of a lane",
            description="What the lane that holds most has of its pool. One that everybody uses may have "
            "much of it; one that gives nothing back is another matter.",
            unit="percentunit",
            maximum=1,
            alert="LifeguardLaneHoldsMost",
            warn_above=0.5,
            queries=(
                Query(
                    "max by (instance, db_client_connection_pool_name)"
                    f" (db_pool_lane_used{_NAMED_LANES})"
                    f" / on (instance, db_client_connection_pool_name) db_client_connection_max{_POOL}",
                    _POOL_LEGEND,
                ),
            ),
        ),
        Panel(
            title="Waiting by lane",
            description="Borrowers in the queue, each in that of its lane.",
            stacked=True,
            queries=(Query(f"sum by (lane) (db_pool_lane_waiting{_POOL})", "{{lane}}"),),
        ),
        Panel(
            title="Turned away by lane",
            description="Borrowers a second. The first lanes that had any have a name here, the rest are "
            "`other`.",
            unit="reqps",
            stacked=True,
            alert="LifeguardPoolShedding",
            queries=(Query(f"sum by (lane) ({_rate('db_pool_lane_shed_total')})", "{{lane}}"),),
        ),
        Panel(
            title="Turned away by priority",
            description="Borrowers a second. In overload `background` goes first, `critical` last.",
            unit="reqps",
            stacked=True,
            alert="LifeguardPoolShedding",
            queries=(Query(f"sum by (priority) ({_rate('db_pool_lane_shed_total')})", "{{priority}}"),),
        ),
        Panel(
            title="Breakers of lanes",
            description="An open one refuses its own lane, all but one request that finds out; the others "
            "go on.",
            kind="state-timeline",
            alert="LifeguardLaneBreakerOpen",
            names={0: ("closed", "green"), 1: ("half-open", "yellow"), 2: ("open", "red")},
            queries=(Query(f"db_pool_lane_breaker_state{_POOL}", _LANE_LEGEND),),
        ),
    ),
)

_REPLICA = Row(
    "Replicas, where there are some",
    (
        Panel(
            title="Lag",
            description="How far each replica is behind the primary.",
            unit="s",
            width=8,
            alert="LifeguardReplicaBehind",
            warn_above=5,
            queries=(
                Query(f"db_replica_lag_seconds{SERVICE}", "{{instance}} {{db_client_connection_pool_name}}"),
            ),
        ),
        Panel(
            title="Reads",
            description="By where they went, a second.",
            unit="ops",
            width=8,
            stacked=True,
            alert="LifeguardReplicaNotRead",
            queries=(Query(f"sum by (to) ({_rate('db_reads_total', SERVICE)})", "{{to}}"),),
        ),
        Panel(
            title="Not read",
            description="What each replica that is not read was found to be; how many instances say so.",
            width=8,
            queries=(
                Query(
                    "sum by (db_client_connection_pool_name, standing) (db_replica_standing"
                    + SERVICE.replace("{", '{standing!~"current|unmeasured",')
                    + ")",
                    "{{db_client_connection_pool_name}} {{standing}}",
                ),
            ),
        ),
    ),
)

_HAPROXY = '{job="haproxy"}'
_BALANCER_LEGEND = "{{instance}} {{proxy}}"
_BALANCER = Row(
    "HAProxy, where it is in front",
    (
        Panel(
            title="Answers",
            description="By class of status, those of HAProxy's own included: a second, to its clients.",
            unit="reqps",
            stacked=True,
            alert="LifeguardBalancerErrors",
            queries=(
                Query(
                    f"sum by (code) ({_rate('haproxy_frontend_http_responses_total', _HAPROXY)})", "{{code}}"
                ),
            ),
        ),
        Panel(
            title="Replicas behind it",
            description="Servers of the backend by state. Places without a replica are in `MAINT`.",
            alert="LifeguardBalancerNoServer",
            queries=(
                Query(
                    'sum by (state) (haproxy_backend_agg_server_status{job="haproxy", proxy="service"})',
                    "{{state}}",
                ),
            ),
        ),
        Panel(
            title="Down",
            description="Servers that have an address and fail their health checks.",
            alert="LifeguardBalancerServerDown",
            queries=(Query('haproxy_server_status{job="haproxy", state="DOWN"}', "{{proxy}} {{server}}"),),
        ),
        Panel(
            title="Connections of clients",
            description="Open now, and the most that are taken.",
            alert="LifeguardBalancerFull",
            queries=(
                Query(f"haproxy_frontend_current_sessions{_HAPROXY}", _BALANCER_LEGEND),
                Query(f"haproxy_frontend_limit_sessions{_HAPROXY}", f"most: {_BALANCER_LEGEND}"),
            ),
        ),
        Panel(
            title="Refused",
            description="A second: requests and connections that its own rules deny.",
            unit="ops",
            queries=(
                Query(_rate("haproxy_frontend_requests_denied_total", _HAPROXY), "requests: {{proxy}}"),
                Query(_rate("haproxy_frontend_denied_sessions_total", _HAPROXY), "connections: {{proxy}}"),
            ),
        ),
        Panel(
            title="Queue",
            description="Requests that wait in HAProxy for a replica.",
            alert="LifeguardBalancerQueue",
            queries=(Query(f"haproxy_backend_current_queue{_HAPROXY}", _BALANCER_LEGEND),),
        ),
        Panel(
            title="Retries",
            description="A second: connections that a replica did not take, tried again there or elsewhere.",
            unit="ops",
            alert="LifeguardBalancerRetries",
            queries=tuple(
                Query(f"sum by (proxy) ({_rate(f'haproxy_backend_{metric}_total', _HAPROXY)})", legend)
                for metric, legend in (
                    ("connection_errors", "not taken: {{proxy}}"),
                    ("retry_warnings", "tried again: {{proxy}}"),
                    ("redispatch_warnings", "by another: {{proxy}}"),
                )
            ),
        ),
    ),
)

_SESSIONS_TAKEN = """\
SELECT count(*)::float8 / current_setting('max_connections')::int AS taken
FROM pg_stat_activity WHERE backend_type = 'client backend'"""

# "#1a2b3c" is of one process, with POOL_INSTANCES=auto.
_SESSIONS_BY_APPLICATION = """\
SELECT regexp_replace(split_part(application_name, ':', 1), '#[0-9a-f]{6}( seat [0-9]+)?', '')
         AS application, state,
       coalesce(wait_event_type, 'none') AS waits_for, count(*) AS sessions
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
GROUP BY 1, 2, 3 ORDER BY sessions DESC"""

_LONGEST_TRANSACTIONS = """\
SELECT pid, application_name AS application, state,
       round(extract(epoch FROM now() - xact_start)::numeric, 1) AS seconds,
       concat_ws(': ', wait_event_type, wait_event) AS waits_for,
       array_to_string(pg_blocking_pids(pid), ' ') AS blocked_by,
       left(query, 200) AS query
FROM pg_stat_activity WHERE backend_type = 'client backend' AND xact_start IS NOT NULL
ORDER BY xact_start LIMIT 20"""

_DATABASE = Row(
    "Database: pg_stat_activity now",
    (
        Panel(
            title="Sessions of the server",
            description="Share of max_connections that is taken, by everybody.",
            kind="stat",
            unit="percentunit",
            width=4,
            warn_above=0.8,
            queries=(Sql(_SESSIONS_TAKEN),),
        ),
        Panel(
            title="Sessions by application",
            description="By SERVICE_NAME; the request's id, which a transaction adds to it, is left out.",
            kind="table",
            unit="none",
            width=8,
            queries=(Sql(_SESSIONS_BY_APPLICATION),),
        ),
        Panel(
            title="Longest transactions",
            description="Who holds what for longest, and who is in his way. After the colon of the "
            "application stands the request's id, as in the log.",
            kind="table",
            unit="none",
            width=12,
            queries=(Sql(_LONGEST_TRANSACTIONS),),
        ),
    ),
)

_ROLLOUT = Row(
    "Rollout",
    (
        Panel(
            title="Instances",
            description="Ready, not ready or draining; a gap is an instance that did not answer.",
            kind="state-timeline",
            alert="LifeguardInstanceNotReady",
            names={0: ("not ready", "red"), 1: ("ready", "green"), 2: ("draining", "blue")},
            queries=(Query(f"app_ready{SERVICE} + 2 * app_draining{SERVICE}", "{{instance}}"),),
        ),
        Panel(
            title="Versions",
            description="Instances by SERVICE_VERSION; two of them during a rollout.",
            stacked=True,
            queries=(Query(f"count by (service_version) (target_info{SERVICE})", "{{service_version}}"),),
        ),
        Panel(
            title="Answering",
            description="Instances that Prometheus knows, that answered its last scrape, that are ready.",
            alert="LifeguardInstanceDown",
            queries=(
                Query(f"count(up{SERVICE})", "known"),
                Query(f"sum(up{SERVICE})", "answering"),
                Query(f"sum(app_ready{SERVICE})", "ready"),
            ),
        ),
        Panel(
            title="In flight",
            description="Requests being served. A draining instance has DRAIN_TIMEOUT to come to 0.",
            alert="LifeguardDrainTooSlow",
            queries=(Query(f"http_requests_inprogress{SERVICE}", "{{instance}}"),),
        ),
        Panel(
            title="Age",
            description="Time since the process started. What falls to 0, or ends, unasked has crashed.",
            unit="s",
            alert="LifeguardInstanceVanished",
            queries=(Query(f"time() - process_start_time_seconds{SERVICE}", "{{instance}}"),),
        ),
        Panel(
            title="Restarts",
            description="Of the last hour, for instances that come back under their old address.",
            alert="LifeguardInstanceRestarting",
            queries=(Query(f"changes(process_start_time_seconds{SERVICE}[1h])", "{{instance}}"),),
        ),
        Panel(
            title="CPU",
            description="Cores in use. One process uses one at most.",
            queries=(Query(_rate("process_cpu_seconds_total", SERVICE), "{{instance}}"),),
        ),
        Panel(
            title="Memory",
            description="Resident.",
            unit="bytes",
            queries=(Query(f"process_resident_memory_bytes{SERVICE}", "{{instance}}"),),
        ),
    ),
)

ROWS = (_TRAFFIC, _POOLS, _LANES, _PROTECTION, _REPLICA, _BALANCER, _DATABASE, _ROLLOUT)
