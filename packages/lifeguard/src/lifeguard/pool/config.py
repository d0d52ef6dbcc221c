"""Every setting of the pool: default, unit and least value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

# What a hook gets is asyncpg's connection (init, reset) or a lease (setup); asyncpg types them as Any too.
Hook = Callable[[Any], Awaitable[object]]
ResetPolicy = Literal["dirty", "always", "never"]
PgBouncerMode = Literal["auto", "on", "off"]

KEEPALIVE = 10
"""Seconds; below what firewalls and NAT forget a silent connection after."""

_NAMED_RESETS = ("dirty", "always", "never")
_PGBOUNCER_MODES = ("auto", "on", "off")

# Seconds, thirty years. What is longer is a mistake, and event loops cannot add it to their clocks.
_LONGEST = 1e9


def check_seconds(name: str, value: object) -> None:
    """Raise TypeError when it is no number, ValueError when it is below 0 or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not 0 <= value <= _LONGEST:
        raise ValueError(
            f"{name} must be at least 0 seconds and finite (at most {_LONGEST:g}), got {value!r}"
        )


def check_count(name: str, value: object) -> None:
    """Raise TypeError when it is no whole number, ValueError when it is below 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")


@dataclass(frozen=True, kw_only=True)  # without slots: then `PoolConfig.max_size` is the default
class PoolConfig:
    """Settings of one pool; times are seconds. They are written here and in the signature of `Pool`.

    Raises ValueError, naming the setting, when a value is outside its range, TypeError when it is no number.
    """

    name: str = "primary"
    """Label in events, metrics and error messages."""

    min_size: int = 5
    """Connections kept open even when none is needed; 0 or more."""

    init_size: int | None = None
    """Connections opened at the start; `min_size` if None, and not below it."""

    max_size: int = 20
    """Most server sessions, those opening and closing included; 1 or more."""

    acquire_timeout: float = 5.0
    """Longest wait of a borrower that names no timeout of its own; above 0."""

    max_waiting: int = 1000
    """Longest queue; a borrower that comes after is turned away. 0: none waits for another to return one."""

    queue_target: float = 0.25
    """Standing wait above which the excess is turned away; 0 turns shedding off."""

    outage_patience: float = 2.0
    """So long into an outage, from the loss of the last connection, borrowers wait for its end; then all are
    refused at once. 0: nobody waits."""

    connect_timeout: float = 5.0
    """Budget of one connection attempt to one host, TLS and authentication included."""

    keepalive: int = KEEPALIVE
    """Seconds of silence after which TCP probes a connection; 1 or more."""

    idle_timeout: float = 30.0
    """A connection above `min_size` that was idle for this long is closed; 0 keeps all."""

    max_lifetime: float = 1800.0
    """Age at which a connection is replaced, less a random part of up to a tenth; 0 turns that off."""

    health_check_interval: float = 15.0
    """An idle connection on which the server has not answered for this long is checked; 0 turns that off.
    With `min_size` 0 only while connections are borrowed."""

    validate_after: float = 1.0
    """A connection on which the server has not answered for longer is checked before it is lent, also when it
    goes straight from one borrower to the next; 0 checks at every borrow."""

    pgbouncer: PgBouncerMode = "off"
    """Whether a pooler is in between that gives each transaction another session: `auto` asks at the first
    connect, `on` takes it for granted, `off` asks nothing."""

    leak_threshold: float = 30.0
    """A lease held for longer is reported once; 0 turns the report off."""

    reset: ResetPolicy | Hook = "dirty"
    """When a returned session is reset: `dirty` only if its state may have changed, `always`, `never`,
    or a hook awaited with the connection at every return, as `asyncpg.create_pool(reset=...)`."""

    init: Hook | None = None
    """Awaited once with every new connection, and again after each reset by the pool, which undoes its
    `SET`s."""

    setup: Hook | None = None
    """Awaited with every lease before its borrower gets it."""

    @property
    def first_size(self) -> int:
        return self.min_size if self.init_size is None else self.init_size

    @property
    def reset_hook(self) -> Hook | None:
        return self.reset if callable(self.reset) else None

    @property
    def resets_every_time(self) -> bool:
        return self.reset == "always" or callable(self.reset)

    def __post_init__(self) -> None:
        for name in ("min_size", "max_size", "max_waiting"):
            check_count(name, getattr(self, name))
        for name in ("acquire_timeout", "connect_timeout", *_DURATIONS):
            check_seconds(name, getattr(self, name))
        if self.max_size < 1:
            raise ValueError(f"max_size must be at least 1, got {self.max_size}")
        if self.min_size > self.max_size:
            raise ValueError(
                f"min_size must be between 0 and max_size ({self.max_size}), got {self.min_size}"
            )
        if self.keepalive < 1:
            raise ValueError(f"keepalive must be at least 1 second, got {self.keepalive}")
        if self.init_size is not None and not self.min_size <= self.init_size <= self.max_size:
            raise ValueError(
                f"init_size must be between min_size ({self.min_size}) and max_size ({self.max_size}),"
                f" got {self.init_size}"
            )
        for name in ("acquire_timeout", "connect_timeout"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be above 0 seconds, got {getattr(self, name)}")
        self._check_hooks()

    def _check_hooks(self) -> None:
        for name in ("init", "setup"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be a coroutine function or None, got {hook!r}")
        if self.pgbouncer not in _PGBOUNCER_MODES:
            raise ValueError(f"pgbouncer must be 'auto', 'on' or 'off', got {self.pgbouncer!r}")
        if not callable(self.reset) and self.reset not in _NAMED_RESETS:
            raise ValueError(f"reset must be 'dirty', 'always', 'never' or a hook, got {self.reset!r}")


_DURATIONS = (
    "queue_target",
    "outage_patience",
    "idle_timeout",
    "max_lifetime",
    "health_check_interval",
    "validate_after",
    "leak_threshold",
)
