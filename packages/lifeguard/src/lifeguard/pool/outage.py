"""How long borrowers wait for a server that has gone away, and from when on they are refused at once.

A restart, or a planned switchover to another server, is over in a second or two. Whoever comes meanwhile
waits in the queue and is served afterwards: refused, it would only come again, or give up. After
`outage_patience` seconds the trouble is of another kind: who waits is refused, and who comes is, at once.
It is twice as long while a server answers that takes no writes: it may be about to be promoted, and a
switchover of a Patroni cluster leaves a service two to three seconds without a primary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from time import monotonic

from lifeguard.pool.config import PoolConfig
from lifeguard.pool.faults import finds_standby
from lifeguard.pool.queue import Total
from lifeguard.pool.stats import Tally

# So many times `outage_patience` is waited while a standby answers.
_WITH_A_STANDBY = 2


class Outage:
    """It begins when a pool that has had connections has none and cannot open one, as of the moment at which
    it lost the last. It ends with the next connection. Times are monotonic seconds.

    Nobody waits for a server that has never been there: until it has been, the service is not ready.
    """

    def __init__(
        self, total: Total, tally: Tally, config: Callable[[], PoolConfig], refuse: Callable[[], object]
    ) -> None:
        """`config()` gives the settings of now; `refuse()` ends the wait of all who wait."""
        self._total = total
        self._tally = tally
        self._config = config
        self._refuse = refuse
        self._alone_since = 0.0
        self._standby_answers = False
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def is_waited_out(self, now: float) -> bool:
        """Whether borrowers still wait for its end, if there is one."""
        return self._tally.opened > 0 and now < self._waited_for_until()

    def _waited_for_until(self) -> float:
        since = self._alone_since if self._since is None else self._since
        return since + self._config().outage_patience * (_WITH_A_STANDBY if self._standby_answers else 1)

    def looms(self) -> None:
        """The server has said that it goes away, or lets nobody in: there may be one soon. What does not flow
        any more is no overload."""
        if self._since is None and (patience := self._config().outage_patience):
            self._total.stand(self._rate(), monotonic() + patience)

    def left_alone(self) -> None:
        """The last connection has gone."""
        self._alone_since = monotonic()

    def failed(self, error: Exception, began_at: float) -> None:
        """Without any connection an attempt, begun then, has failed."""
        if not self._tally.opened:
            return
        if self._since is None:
            self._since = max(began_at, self._alone_since)
        self._standby_answers = finds_standby(error)
        if not self.is_waited_out(monotonic()):
            self._total.shrink(0.0)
            self.stop()
        elif self._timer is None:
            self._total.stand(self._rate())
            self._set_timer()

    def _set_timer(self) -> None:
        left = self._waited_for_until() - monotonic()
        self._timer = asyncio.get_running_loop().call_later(left, self._ring, context=Context())

    def _ring(self) -> None:
        self._timer = None
        if self.is_waited_out(monotonic()):
            self._set_timer()
        else:
            self._total.shrink(0.0)
            self._refuse()

    def over(self) -> float | None:
        """There is a connection. How long there was none, in seconds; None if that is no news. Who has waited
        is served within its deadline, and none is later than this."""
        if self._since is None:
            return None
        now = monotonic()
        seconds, self._since = now - self._since, None
        self._standby_answers = False
        self._total.shrink(now + self._config().acquire_timeout)
        self.stop()
        return seconds

    def stop(self) -> None:
        """Nobody waits for its end any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rate(self) -> float:
        """How many a second all connections together can serve, each as long as half of all uses took."""
        usual = self._tally.use.snapshot().median
        return self._config().max_size / usual if usual else 0.0
