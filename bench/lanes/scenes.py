"""Who asks for what in each scene.

Every request keeps a connection for 100 ms, so that the capacity is known.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.lanes.work import CAPACITY
from bench.overload.generator import Phase, request_to
from bench.overload.trial import DEADLINE

LOCK = 10.0
"""Seconds for which the table is locked."""
PATIENT = 5.0
"""Seconds for which clients wait where a table is locked: longer than LOCK_TIMEOUT, so that who waits for
the lock keeps a connection for all of it, and no client ends that by hanging up."""
_IN_TIME = {"X-Request-Timeout": f"{DEADLINE:g}"}
"""What clients say where it is about their deadlines; the smallest services do not read it."""
TENANTS = 50
LOCKED, CROWD, FLOOD = "a lock", "a crowd", "a flood"
BESIDE, AT_LOCK = "routes beside the lock", "the locked route"
CRITICAL, NORMAL, BACKGROUND = "critical", "normal", "background"
OTHERS, FLOODING = "the other 49", "the one that floods"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request, and who of the table sends it."""

    who: str
    request: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What is sent, how much of it before it matters, and then; loads are capacities."""

    name: str
    kinds: tuple[Kind, ...]
    before: float
    during: float
    shares_before: tuple[float, ...]
    shares_during: tuple[float, ...]
    patience: float = DEADLINE
    """Seconds after which a client hangs up. In time is what came within `DEADLINE`."""

    @property
    def locks(self) -> bool:
        return self.name == LOCKED


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long is measured before and during; each time after `settle`."""

    settle: float
    before: float
    during: float


def phases(scene: Scene, seconds: Seconds) -> list[Phase]:
    """Settle, measure; then the same with what the scene is about."""
    before = scene.before * CAPACITY, list(scene.shares_before)
    during = scene.during * CAPACITY, list(scene.shares_during)
    return [
        Phase(before[0], seconds.settle, before[1]),
        Phase(before[0], seconds.before, before[1]),
        Phase(during[0], seconds.settle, during[1]),
        Phase(during[0], seconds.during, during[1]),
    ]


def _tenants() -> Scene:
    """The others ask for a quarter of the capacity together, before and during the flood."""
    total, flood = 5.0, 0.95
    others = (total * (1 - flood) / (TENANTS - 1),) * (TENANTS - 1)
    return Scene(
        FLOOD,
        tuple(
            Kind(
                FLOODING if number == 0 else OTHERS,
                request_to("/work", **{"X-Tenant": f"tenant-{number}", **_IN_TIME}),
            )
            for number in range(TENANTS)
        ),
        before=others[0] * TENANTS,
        during=total,
        shares_before=(others[0], *others),
        shares_during=(total * flood, *others),
    )


SCENES = (
    Scene(
        LOCKED,
        (
            Kind(AT_LOCK, request_to("/accounts")),
            Kind(BESIDE, request_to("/orders")),
            Kind(BESIDE, request_to("/products")),
        ),
        before=0.5,
        during=0.5,
        shares_before=(1, 1, 1),
        shares_during=(1, 1, 1),
        patience=PATIENT,
    ),
    Scene(
        CROWD,
        (
            Kind(CRITICAL, request_to("/critical", **_IN_TIME)),
            Kind(NORMAL, request_to("/normal", **_IN_TIME)),
            Kind(BACKGROUND, request_to("/background", **_IN_TIME)),
        ),
        before=1.5,
        during=10,
        shares_before=(1, 6, 3),
        shares_during=(1, 6, 3),
    ),
    _tenants(),
)
