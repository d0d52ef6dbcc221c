"""An event loop whose seconds pass as soon as nothing is left to do in them."""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator


class Clock:
    """Seconds of the simulation."""

    def __init__(self) -> None:
        self.now = 1000.0  # a monotonic clock is not at its zero, either

    def __call__(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    """Has nothing to wait for but the next timer."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is left to happen")
        self._clock.now += max(timeout, 0.0)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        super().__init__(_Selector(clock))
        self._clock = clock

    @override
    def time(self) -> float:
        return self._clock.now


@contextmanager
def _clock_of_the_engine(clock: Clock) -> Iterator[None]:
    """Its modules have `monotonic` from `time`, each for itself."""
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith("lifeguard") and getattr(module, "monotonic", None) is time.monotonic
    ]
    for module in modules:
        module.__dict__["monotonic"] = clock
    try:
        yield
    finally:
        for module in modules:
            module.__dict__["monotonic"] = time.monotonic


def run(scene: Coroutine[object, object, None], clock: Clock) -> None:
    """Let it happen, until it ends."""
    with _clock_of_the_engine(clock), asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        runner.run(scene)
