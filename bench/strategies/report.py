"""What the trials say: a row per strategy and scene, one for all scenes together, and the targets."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from bench.overload.generator import GAVE_UP
from bench.overload.trial import OURS
from bench.quantile import quantile
from bench.strategies.trial import CONNECTION_EACH, SQLALCHEMY
from bench.targets import Target, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.strategies.trial import Played, Trial

OK = 200
REFUSED = (429, 503)
ALL = "all scenes"


@dataclass(frozen=True, slots=True)
class Row:
    """One strategy in one scene, all rounds together.

    The latencies are those of whoever was served or gave up, who counts with the deadline; from the
    instant at which a request was due. Whoever was refused or got an error is in no latency.
    """

    contestant: str
    scene: str
    requests: int
    p50_ms: float
    p99_ms: float
    refused: int
    gave_up: int
    broken: int
    """Other statuses and failed connections."""
    opened: int
    reuse: float
    """Share of the served requests that no opened connection stands against; not below 0."""
    memory_mb: float | None
    """For each thousand requests, at the highest; None but in the scene of the thousand and in all."""
    service_cores: float
    database_cores: float | None
    network_cores: float
    generator_cores: float
    generator_late_p99_ms: float

    @property
    def failed(self) -> int:
        return self.refused + self.gave_up + self.broken


def rows_of(trials: Sequence[Trial]) -> list[Row]:
    """By strategy; `ALL` is the last of each."""
    rows = []
    for name in dict.fromkeys(trial.contestant.name for trial in trials):
        rounds = [trial.played for trial in trials if trial.contestant.name == name]
        rows += [_row(name, played[0].scene.name, played) for played in zip(*rounds, strict=True)]
        rows.append(_row(name, ALL, [played for scenes in rounds for played in scenes]))
    return rows


def targets_of(rows: Sequence[Row]) -> list[Target]:
    whole = {row.contestant: row for row in rows if row.scene == ALL}
    if {OURS.name, CONNECTION_EACH.name, SQLALCHEMY.name} <= whole.keys():
        return list(_targets(whole[OURS.name], whole[CONNECTION_EACH.name], whole[SQLALCHEMY.name]))
    return []


def _targets(ours: Row, connection_each: Row, default_pool: Row) -> Iterator[Target]:
    for peer, times in ((connection_each, 13), (default_pool, 4)):
        yield at_least(times, f"p99 of {peer.contestant} / ours", ALL, peer.p99_ms / ours.p99_ms)
    yield at_least(0.96, "reuse", ALL, ours.reuse)
    memory = (ours.memory_mb or 0) / (connection_each.memory_mb or 1)
    yield at_most(1 / 4, f"memory / that of {connection_each.contestant}", "a thousand", memory)
    for peer in (connection_each, default_pool):
        yield at_most(1, f"failed / those of {peer.contestant}", ALL, ours.failed / max(peer.failed, 1))


def _row(contestant: str, scene: str, played: Sequence[Played]) -> Row:
    asked = [
        (status, latency)
        for part in played
        for status, latency in zip(part.answers.status, part.answers.latency, strict=True)
    ]
    statuses = [status for status, _ in asked]
    served, gave_up = statuses.count(OK), statuses.count(GAVE_UP)
    refused = sum(map(statuses.count, REFUSED))
    waited = sorted(latency for status, latency in asked if status in {OK, GAVE_UP})
    opened = sum(part.opened for part in played)
    database = [part.database_cores for part in played if part.database_cores is not None]
    thousands = [part for part in played if part.scene.measures_memory]
    return Row(
        contestant=contestant,
        scene=scene,
        requests=len(asked),
        p50_ms=quantile(waited, 0.5) * 1e3,
        p99_ms=quantile(waited, 0.99) * 1e3,
        refused=refused,
        gave_up=gave_up,
        broken=len(asked) - served - gave_up - refused,
        opened=opened,
        reuse=max(0.0, 1 - opened / max(served, 1)),
        memory_mb=fmean(map(_memory_of_a_thousand, thousands)) if thousands else None,
        service_cores=fmean(part.service_cores for part in played),
        database_cores=fmean(database) if database else None,
        network_cores=fmean(part.network_cores for part in played),
        generator_cores=fmean(part.generator_cores for part in played),
        generator_late_p99_ms=quantile(sorted(_lateness(played)), 0.99) * 1e3,
    )


def _memory_of_a_thousand(played: Played) -> float:
    """Megabytes; arrivals are random, so there were not exactly a thousand."""
    return played.memory / 1e6 / (len(played.answers.status) / 1000)


def _lateness(played: Sequence[Played]) -> Iterator[float]:
    for part in played:
        yield from part.answers.lateness
