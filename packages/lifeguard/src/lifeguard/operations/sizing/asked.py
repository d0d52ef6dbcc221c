"""What a size is asked for: the options of `sizing`, each within bounds, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lifeguard.settings import SettingsError
from lifeguard.settings.environment import shown
from lifeguard.settings.variables import allowed_values

MOST_INSTANCES = 100_000
"""As POOL_INSTANCES has it."""
LEAST_RATE = LEAST_HOLD_MS = 0.001
"""Of a load that can be told of."""
KUBERNETES_SURGE = 0.25
"""`maxSurge` of a Deployment that says nothing of it, a part of its replicas, rounded up:
https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#max-surge"""
# The server's own bound of max_connections.
_MOST_SESSIONS = 262_143

_Finite = Field(allow_inf_nan=False)
_Sessions = Annotated[int, Field(ge=0, le=_MOST_SESSIONS)]


class Asked(BaseModel):
    """A server, the processes that share it, and their load. `read()` makes it from texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    cores: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Processors of the server that the database runs on."""
    disks: Annotated[int, Field(ge=0, le=1000)] = 1
    """Disks that it reads from at the same time; 0 if all data is in memory."""
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Instances of the service."""
    workers: Annotated[int, Field(ge=1, le=1000)] = 1
    """Processes of each instance."""
    surge: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Instances that a rolling deploy has besides; None: KUBERNETES_SURGE of the replicas."""
    rps: Annotated[float, _Finite, Field(ge=LEAST_RATE, le=10_000_000)] | None = None
    """Requests a second that borrow a connection, of all instances together."""
    hold_ms: Annotated[float, _Finite, Field(ge=LEAST_HOLD_MS, le=3_600_000)] | None = None
    """Milliseconds that such a request keeps its connection, on average."""
    idle_ms: Annotated[float, _Finite, Field(ge=0, le=3_600_000)] = 0.0
    """Of these, milliseconds in which the server waits for the service: the network, its own computing."""
    max_connections: Annotated[int, Field(ge=1, le=_MOST_SESSIONS)] = 100
    """Of the server. PostgreSQL's default."""
    reserved: _Sessions = 3
    """Of them, superuser_reserved_connections and reserved_connections. PostgreSQL's default."""
    share: Annotated[float, _Finite, Field(ge=0.001, le=1)] = 1.0
    """The part of the server that is this service's, where others use it too."""
    headroom: Annotated[float, _Finite, Field(ge=0.01, le=1)] = 0.75
    """POOL_HEADROOM: the part of the server's sessions that pools may take, of a pool that the load may."""
    standbys: Annotated[int, Field(ge=0, le=100)] = 0
    """Replicas of the database that are read; each process has a session more at every server for them."""
    tasks: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests that a process has under way at once, at most."""
    borrows: Annotated[int, Field(ge=1, le=100)] = 1
    """Connections that one of them holds at once, at most."""
    scale_to_zero: bool = False
    """Whether nothing is kept open while nobody asks."""

    @property
    def surging(self) -> int:
        return math.ceil(self.replicas * KUBERNETES_SURGE) if self.surge is None else self.surge

    @property
    def processes(self) -> int:
        """Between two deploys."""
        return self.replicas * self.workers

    @property
    def instances(self) -> int:
        """Most processes at once, while a deploy rolls: POOL_INSTANCES."""
        return (self.replicas + self.surging) * self.workers

    @property
    def available(self) -> int:
        """Sessions of the server that this service could have."""
        return int((self.max_connections - self.reserved) * self.share)

    @property
    def comfortable(self) -> int:
        """Of these, how many its pools may take."""
        return int(self.available * self.headroom)

    @property
    def in_use(self) -> float | None:
        """Connections that the load has in use on average: Little's law, L = rate x time.

        J. D. C. Little, A proof for the queuing formula L = λW, Operations Research 9 (1961).
        """
        return None if self.rps is None or self.hold_ms is None else self.rps * self.hold_ms / 1000

    def with_load(self, rps: float, hold_ms: float) -> Asked:
        """The same, with what was measured wherever nothing is said."""
        load = {"rps": rps, "hold_ms": hold_ms}
        missing = {name: value for name, value in load.items() if getattr(self, name) is None}
        return _checked({**self.model_dump(exclude_unset=True), **missing})

    def conflicts(self) -> Iterator[str]:
        """Yield a line for what cannot be, though each value is allowed alone."""
        if self.hold_ms is not None and self.idle_ms >= self.hold_ms:
            yield f"--idle-ms={self.idle_ms:g}: is a part of --hold-ms={self.hold_ms:g}, and must be below it"
        if self.reserved >= self.max_connections:
            yield f"--reserved={self.reserved}: leaves none of --max-connections={self.max_connections}"
        elif self.available < 1:
            yield f"--share={self.share:g}: leaves none of {self.max_connections - self.reserved} sessions"
        elif self.comfortable < 1:
            yield f"--headroom={self.headroom:g}: leaves none of the server's {self.available} sessions"
        if self.borrows > 1 and self.tasks is None:
            yield f"--borrows={self.borrows}: needs --tasks, how many requests a process has at once"
        if self.instances > MOST_INSTANCES:
            yield (
                f"--replicas={self.replicas} and {self.surging} of a deploy, x --workers={self.workers}:"
                f" {self.instances} processes; no more than {MOST_INSTANCES} can be told of"
            )


def read(values: Mapping[str, object], *, measured: bool = False) -> Asked:
    """Make it from options, whose values may be texts; `measured`: the load comes from a running service.

    Raises SettingsError, one readable line per fault.
    """
    asked = _checked(values)
    if not measured:
        if asked.rps is not None and asked.hold_ms is None:
            raise SettingsError("--rps: needs --hold-ms, how long a request keeps its connection")
        if asked.hold_ms is not None and asked.rps is None:
            raise SettingsError("--hold-ms: needs --rps, how many requests a second borrow a connection")
        if asked.cores is None and asked.rps is None:
            raise SettingsError(
                "a size of what? Give --cores, or --rps with --hold-ms, or both, or --from a running service"
            )
        if asked.idle_ms and asked.hold_ms is None:
            raise SettingsError("--idle-ms: is a part of --hold-ms, which is not given")
    return asked


def _checked(values: Mapping[str, object]) -> Asked:
    try:
        asked = Asked.model_validate(values)
    except ValidationError as error:
        lines = [_line(str(one["loc"][0]), one["input"]) for one in error.errors()]
        raise SettingsError("\n".join(dict.fromkeys(lines))) from error
    if faults := list(asked.conflicts()):
        raise SettingsError("\n".join(faults))
    return asked


def _line(name: str, given: object) -> str:
    return f"{_option(name)}={shown(given)}: must be {allowed_values(Asked, name)}"


def _option(name: str) -> str:
    """The option for a field."""
    return f"--{name.replace('_', '-')}"
