"""Work that several callers wait for, done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Shared:
    """One run of `work` at a time: calls while it is under way wait for its end, too. It is cancelled when no
    call waits for it any more."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._run: asyncio.Task[None] | None = None
        self._waiters: set[object] = set()
        """Calls that wait for this run."""

    async def run(self) -> None:
        """Raises what `work` raises."""
        run = self._run
        while run is not None and not run.done() and not self._waiters:  # cancelled, and clearing up
            await asyncio.wait({run})
            run = self._run
        if run is None or run.done():
            self._run = run = asyncio.create_task(self._work(), name=self._name)
            # Its error is read here, because no call may be left to read it.
            run.add_done_callback(lambda run: run.cancelled() or run.exception())
            self._waiters = set()
        waiters, this = self._waiters, object()
        waiters.add(this)
        try:
            await asyncio.wait({run})
        finally:
            waiters.discard(this)
            if not waiters:
                run.cancel()
        run.result()
