"""The pool's background tasks: kept alive, named, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any


class Jobs:
    """A set of tasks that nobody awaits one by one. A job handles its own errors. What it cannot handle,
    a cancel by whoever it may be, is for its `broken_off`."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self, job: Coroutine[Any, Any, None], name: str, broken_off: Callable[[], None]
    ) -> asyncio.Task[None]:
        """Run it in the background. `broken_off` is called when it ended in any other way than by returning,
        also before its first step.

        Its context is empty: it may outlive the borrower whose call has started it, and what it logs is not
        that one's.
        """
        context = Context()
        task = asyncio.get_running_loop().create_task(job, name=f"{self._owner}: {name}", context=context)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, broken_off), context=context)
        return task

    def _ended(self, broken_off: Callable[[], None], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # it had none that it knew of
            task.get_loop().call_exception_handler(
                {"message": f"{task.get_name()} failed", "exception": error, "task": task}
            )
        if task.cancelled() or error is not None:
            broken_off()

    async def settle_one(self, timeout: float) -> None:
        """Wait until any of them has ended, for at most `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(0)

    async def finish(self, timeout: float) -> None:
        """Wait for all of them; whoever needs more than `timeout` seconds is cancelled."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=timeout)

    def cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()


class Shared:
    """One run of `work` at a time: whoever asks while it is under way waits for its end, too. It is broken
    off when nobody waits for it any more."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._run: asyncio.Task[None] | None = None
        self._waiters: set[object] = set()
        """Who waits for this run."""

    async def run(self) -> None:
        """Raises what `work` raises."""
        run = self._run
        while run is not None and not run.done() and not self._waiters:  # broken off, and clearing up
            await asyncio.wait({run})
            run = self._run
        if run is None or run.done():
            self._run = run = asyncio.create_task(self._work(), name=self._name)
            run.add_done_callback(lambda run: run.cancelled() or run.exception())  # nobody may be left
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
