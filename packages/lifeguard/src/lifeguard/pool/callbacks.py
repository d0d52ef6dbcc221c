"""A borrower's listeners are called with its lease, not with asyncpg's connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any
from weakref import ref

Callback = Callable[..., Any]
_under_way: set[asyncio.Task[Any]] = set()


class _WithLease:
    """Calls `callback` with the lease where asyncpg would give the connection. Two of them for the same lease
    and callback are equal, so that asyncpg finds the one to remove.

    It keeps a weak reference to the lease: one that is dropped with its listeners must still be reclaimed.
    """

    __slots__ = ("__weakref__", "_callback", "_lease")

    def __init__(self, lease: object, callback: Callback) -> None:
        self._lease = ref(lease)
        self._callback = callback

    def __call__(self, _: object, *message: object) -> Any:
        lease = self._lease()
        return None if lease is None else self._callback(lease, *message)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _WithLease):
            return NotImplemented
        return self._callback == other._callback and self._lease == other._lease

    def __hash__(self) -> int:
        return hash(self._callback)


class _AsyncWithLease(_WithLease):
    """For a coroutine function: makes a task of it. asyncpg would not recognise this as one."""

    __slots__ = ()

    def __call__(self, connection: object, *message: object) -> None:
        coroutine = super().__call__(connection, *message)
        if coroutine is not None:
            task = asyncio.get_running_loop().create_task(coroutine)
            _under_way.add(task)
            task.add_done_callback(_under_way.discard)


def with_lease(lease: object, callback: Any) -> Any:
    """What to give to asyncpg in place of `callback`. What cannot be called stays: asyncpg refuses it."""
    if not callable(callback):
        return callback
    return _AsyncWithLease(lease, callback) if iscoroutinefunction(callback) else _WithLease(lease, callback)
