"""Lends the connections of a service's databases, tagged and bounded by the call that borrows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from functools import partial
from typing import cast

from lifeguard.database.connect_options import each_replica, quoted, session_limits, settings_in_url
from lifeguard.database.consistency import Consistency
from lifeguard.database.deadlines import DeadlineConnection
from lifeguard.database.guard import Guard, Lent
from lifeguard.database.replica_lending import ReplicaLending
from lifeguard.database.replicas import Replicas, lane_instead
from lifeguard.database.scope import call_scope, current_deadline, current_tag, time_left, within_deadline
from lifeguard.database.single import SingleStatements
from lifeguard.database.transactions import application_name, prelude
from lifeguard.database.types import Transaction
from lifeguard.pool import Lease, Priority
from lifeguard.settings import Settings


class Lender:
    """The one place where this service borrows connections."""

    def __init__(
        self,
        settings: Settings,
        shared: Settings,
        name: str | None,
        primary: Guard,
        replicas: Replicas,
        *,
        lane: Hashable | None,
        priority: Priority,
    ) -> None:
        """The arguments are those of `Database`. `shared`: the settings as all processes of the service have
        them."""
        self.primary = primary
        self.replicas = replicas
        self.command_timeout = settings.command_timeout
        self.consistency = Consistency(shared, name, replicas, self.prelude)
        self.readings = ReplicaLending(replicas, self.consistency)
        self.reads: Counter[str] = Counter()
        """How many reads each pool has served, by its name."""
        self._acquire_timeout = settings.pool_acquire_timeout
        self._lane = lane
        self._priority = priority
        self._service = settings.service_name
        self._tags_statements = settings.tag_statements
        self._limits = session_limits(settings)
        self._in_urls = {primary: settings_in_url(settings)} | {
            replica: settings_in_url(of_one, "replica")
            for replica, of_one in zip(replicas.all, each_replica(settings), strict=True)
        }
        """The settings of the session that the URL of each has."""

    def lend(
        self, guard: Guard, lane: Hashable | None, priority: Priority | None, *, replaces: bool = False
    ) -> Lent:
        """For the call under way. `replaces`: a replica's connection, by the primary's."""
        timeout = self._acquire_timeout
        if (call := call_scope.get()) is not None:
            if call.deadline is not None:
                timeout = min(timeout, time_left(call.deadline))
            lane = call.lane if lane is None else lane
            priority = priority or call.priority
        lane = self._lane if lane is None else lane
        return guard.lend(timeout, lane_instead(lane) if replaces else lane, priority or self._priority)

    async def tag(self, lease: Lease, guard: Guard) -> None:
        """Let the server show whose statements come now, if TAG_STATEMENTS is on. The pool sees the SET and
        resets the session when it is returned. Behind a pooler each transaction has its tag."""
        if self._tags_statements and guard.pool.pooler is None and (tag := current_tag()):
            name = quoted(application_name(self._service, tag))
            await within_deadline(lease.execute(f"SET application_name = {name}"))

    def prelude(self, guard: Guard) -> str:
        """What comes with BEGIN; behind a pooler also what the session would have of the URL."""
        others = self._in_urls[guard] if guard.pool.pooler is not None else {}
        return prelude(self._service, self._limits, others)

    def single(self, lease: Lease, guard: Guard) -> Lease | SingleStatements:
        """The lease; behind a pooler whose sessions lack what the service's would have, one that gives it to
        each statement."""
        pooler = guard.pool.pooler
        if pooler is None or not (pooler.lacks or (self._tags_statements and current_tag())):
            return lease
        return SingleStatements(lease, partial(self.prelude, guard), self.command_timeout)

    def bounded(self, lease: Lease | SingleStatements) -> Transaction:
        """The lease, or what ends its statements with the call. Callers narrow the type."""
        deadline = current_deadline()
        if deadline is None:
            return cast("Transaction", lease)
        bounded = DeadlineConnection(lease, deadline, self.command_timeout)
        return cast("Transaction", bounded)
