"""What processes cost, as Linux tells it; one that has ended costs nothing any more."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def processor_seconds(process: int, *, ended_children: bool = False) -> float:
    """Processor time of a process; with `ended_children`, also of those that it has reaped."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # a backend that has ended
        return 0.0
    own_and_children = stat.rpartition(")")[2].split()[11 : 15 if ended_children else 13]
    return sum(map(int, own_and_children)) / os.sysconf("SC_CLK_TCK")


def children(process: int) -> list[int]:
    try:
        listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:  # a server that was stopped
        return []
    return [int(word) for word in listed.split()]


def private_memory(process: int) -> int:
    """Bytes in memory that this process alone has: what would be free if it ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def allow_many_connections() -> None:
    """Every request that waits is a socket at either end: under overload thousands."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
