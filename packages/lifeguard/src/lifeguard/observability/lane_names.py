"""Names of lanes as they leave the process: without secrets, in one line, and short.

A lane may be named by a client (a tenant, a header), who decides about length and characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from lifeguard.observability.scrub import Scrubber
from lifeguard.pool import PoolStats

LONGEST = 80
"""Characters of a name; longer ones end in an ellipsis."""
# What is looked at of a longer name. A secret that begins within `LONGEST` is found if it ends before this.
_LOOKED_AT = 4096


def shown_name(lane: str, scrub: Scrubber) -> str:
    """The lane's name for metrics and pages."""
    name = scrub(lane[:_LOOKED_AT])
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    return "".join(character if character.isprintable() else "?" for character in name)


def with_shown_names(stats: PoolStats, scrub: Scrubber) -> PoolStats:
    """The statistics with every lane's name as it is shown."""
    if not stats.lanes and not stats.shed_by_lane:
        return stats
    return replace(
        stats,
        lanes=tuple(replace(lane, name=shown_name(lane.name, scrub)) for lane in stats.lanes),
        shed_by_lane=_added_up(stats.shed_by_lane, scrub),
    )


def _added_up(sheds: Mapping[str, Mapping[str, int]], scrub: Scrubber) -> dict[str, Counter[str]]:
    """Names may become alike when they are cut, and two series may not."""
    shown: dict[str, Counter[str]] = {}
    for lane, counts in sheds.items():
        shown.setdefault(shown_name(lane, scrub), Counter()).update(counts)
    return shown
