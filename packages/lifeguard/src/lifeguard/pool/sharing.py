"""What a pool is told by those who know of other processes with pools on the same server."""

from __future__ import annotations

from lifeguard.pool.config import check_count
from lifeguard.pool.lending import Lending
from lifeguard.pool.state import PoolState


class Sharing:
    """Mixin of `Pool`."""

    _lending: Lending
    _state: PoolState

    @property
    def is_held(self) -> bool:
        """Whether it opens no connection, by `hold()`."""
        return self._state.held is not None

    def hold(self, why: str = "") -> None:
        """Open no connection until `proceed()`, and close those there are: idle ones now, the others when
        they come back. Who needs one waits, or with `why` is refused with PoolUnavailable."""
        self._lending.hold(why)

    def proceed(self) -> None:
        """Open connections again."""
        self._lending.hold(None)

    def expect_peers(self, processes: int) -> None:
        """So many processes, this one included, come back to the server after an outage: with more of them
        each tries less often. Raises ValueError below 1."""
        check_count("processes", processes)
        if not processes:
            raise ValueError("processes must be at least 1")
        self._lending.opener.peers = processes
