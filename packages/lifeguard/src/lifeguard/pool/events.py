"""The pool's events, and how they reach its listener; what it says of leases and of a drain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lifeguard.pool.connection import PooledConnection
from lifeguard.pool.faults import describe_error, sqlstate_of
from lifeguard.pool.names import Priority
from lifeguard.pool.stats import PoolStats

Level = Literal["debug", "info", "warning", "error"]

_log = logging.getLogger("lifeguard.pool")

EVENTS: Mapping[str, tuple[str, str]] = {
    "connection_opened": (
        "debug",
        "A connection was opened: the ordinary coming and going.",
    ),
    "connection_closed": (
        "debug",
        "A connection was closed, for this `reason`.",
    ),
    "pooler_found": (
        "info, warning",
        "The first connection has shown a pooler in between; `product`, `reason`. A warning when it keeps no "
        "prepared statements, or its sessions lack settings: both cost round trips. See "
        "docs/pool.md#pgbouncer-and-other-poolers. Again when it has changed.",
    ),
    "open_failed": (
        "warning",
        "An attempt to connect failed for a reason that may pass; `host`, with its port, or all that the URL "
        "names, `error`, with the variable that helps against a pooler, `fault`, `retry_in`. Later attempts "
        "that fail for the same reason are debug. See the alert ConnectFailures.",
    ),
    "open_blocked": (
        "error",
        "Attempts fail for a reason that stays until somebody acts; `host`, `fault`, `error`, `advice`. "
        "Once, until the class changes. See docs/pool.md#when-no-connection-can-be-made.",
    ),
    "password_not_renewed": (
        "warning",
        "The command or function that gives the password failed ahead of the expiry; `error`, `expires_in` "
        "seconds. The old one is used until then, and the next is asked for again; for the same reason that "
        "is debug. See docs/passwords.md#when-it-fails.",
    ),
    "outage_over": (
        "info",
        "There is a connection again, `seconds` after the last was lost; `waiting` have waited for it. Those "
        "who came in the first `POOL_OUTAGE_PATIENCE` seconds, if it was over by then, have noticed nothing "
        "else. See docs/failover.md.",
    ),
    "server_read_only": (
        "warning",
        "The primary pool's server takes no writes any more, and no other is known yet. Once, until one "
        "is found (`connections_expired`): promote a standby, or find out why it is read-only.",
    ),
    "connections_suspect": (
        "info",
        "One connection was lost, so all are checked before they are lent again; `why`. Not for one that "
        "its borrower has closed, or that the server has ended for it alone and said so (25P03, 25P04, "
        "57P05). Once per incident: a restart or failover. Nothing to do.",
    ),
    "connections_expired": (
        "info",
        "All are being replaced; `why` is `asked` or `read_only` (failover).",
    ),
    "schema_changed": (
        "info",
        "A statement has met a changed table or type: every connection forgets its prepared statements "
        "and types and renews them before it is lent again; nobody reconnects. Once for each change; "
        "often without a migration: tenants that share statements but not types.",
    ),
    "return_failed": (
        "warning",
        "A session could not be cleaned up and was closed. Often beside a restart; alone and often: look "
        "at `error`.",
    ),
    "lease_overdue": (
        "warning",
        "Held longer than `POOL_LEAK_THRESHOLD`. See the alert PoolLeak.",
    ),
    "overdue_lease_returned": (
        "info",
        "It came back after all; `held_for`.",
    ),
    "lease_abandoned": (
        "warning",
        "Dropped without being returned, and taken back. A mistake in the code at `borrowed_at`.",
    ),
    "nested_borrow": (
        "warning",
        "A task borrowed a second connection while it held one; once for each place and route. See "
        "the alert PoolLeak.",
    ),
    "left_behind": (
        "warning",
        "A connection came back with `what`: a transaction, which is rolled back, or listeners, which are "
        "removed. Once for each place and route.",
    ),
    "pool_drained": (
        "info, warning",
        "The end; as warning with what was `cut_off`, its `backend_pids`, and how many were `refused`.",
    ),
    "lane_breaker_opened": (
        "warning",
        "Nothing of one `lane` has come back, its oldest lease is `oldest_use` old, and somebody of it "
        "was refused or waited in vain: its requests are refused at once, all but one at a time. See the "
        "alert LaneBreakerOpen.",
    ),
    "newcomer_set_aside": (
        "warning",
        "An unknown name holds most of what is overdue in the lane `newcomers`. From now on it has a `lane` "
        "of its own, with the `held` connections, and the others go on.",
    ),
    "lane_breaker_closed": (
        "info",
        "One of that `lane` succeeded, or nobody comes any more.",
    ),
}
"""Each event by its name: its levels, and what it means and what to do. docs/reference is made from this."""


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something that an operator may want to know, with the pool's numbers of that moment.

    `details` of an event about a connection have its `backend_pid` and `client_address`, those of an error of
    the server its `sqlstate`: with these the session is found in the server's log.
    """

    name: str
    level: Level
    details: Mapping[str, object]
    stats: PoolStats


Listener = Callable[[PoolEvent], None]


def log_event(event: PoolEvent) -> None:
    """The listener of a pool that was given none: a line of standard logging."""
    _log.log(
        logging.getLevelNamesMapping()[event.level.upper()],
        "pool %s: %s %s (%s)",
        event.stats.name,
        event.name,
        dict(event.details),
        event.stats.summary(),
    )


class Reporter:
    """Tells the listener of one pool; its failure is logged and goes no further."""

    def __init__(self, listener: Listener, stats: Callable[[], PoolStats]) -> None:
        self._listener = listener
        self._stats = stats

    def __call__(
        self,
        level: Level,
        event: str,
        /,
        *,
        about: PooledConnection | None = None,
        error: BaseException | None = None,
        **details: object,
    ) -> None:
        """`about` is the connection that it concerns and `error` what was raised: they become the process id,
        the client address and the SQLSTATE by which the session is found in the server's log."""
        if error is not None:
            details["error"] = describe_error(error)
        if about is not None:
            details |= {"backend_pid": about.backend_pid, "client_address": about.client_address}
        if code := (error and sqlstate_of(error)) or (about and about.sqlstate):
            details["sqlstate"] = code
        try:
            self._listener(PoolEvent(event, level, details, self._stats()))
        except Exception:
            logging.getLogger("lifeguard.pool").exception("the listener of pool events failed")


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """One connection in use."""

    backend_pid: int
    client_address: str | None
    """`host:port` of this end; None over a Unix socket."""
    held_for: float
    """Seconds."""
    borrowed_at: str | None
    """`file:line in function` of the first code that is neither the engine's nor a library's; of the
    endpoint, if a dependency of the engine borrowed for it."""
    route: str | None
    """Method and path template of the request it serves, if it serves one."""
    task: str | None
    """Name of the task that borrowed; None when that task has ended."""
    stack: tuple[str, ...]
    """Where that task waits now, innermost first."""
    waiting_for: str | None
    """What it waits for there if that is not the database, as far as the frames tell: an address, a library,
    a function, such as `127.0.0.1:8080 (httpx)`."""
    overdue: bool
    """Held longer than the leak threshold."""
    lane: str | None = None
    """In which lane it was borrowed; None while the pool has no lanes."""
    priority: Priority = "normal"


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How a drain went."""

    seconds: float
    cut_off: tuple[LeaseInfo, ...]
    """Leases that were not returned in time: their connections were cut."""
    refused: int
    """Waiters that were still in the queue at the end."""
