"""What a benchmark ran on, so that its figures can be read elsewhere."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lifeguard.development.embedded import binaries

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware, kernel and versions; `load_at_start` is the 1-minute load average."""

    processor: str
    cores: int
    system: str
    python: str
    event_loop: str
    postgresql: str
    packages: dict[str, str]
    date: str
    load_at_start: float

    def caption(self) -> str:
        """One line for under a table or a plot."""
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.processor}, {self.cores} cores, {self.system}; Python {self.python} on "
            f"{self.event_loop}, PostgreSQL {self.postgresql}; {packages}; "
            f"{self.date}, load {self.load_at_start:g}"
        )


def describe_machine(*, event_loop: str, packages: Iterable[str]) -> Machine:
    """Describe this machine as it is now."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        event_loop=event_loop,
        postgresql=_postgresql(),
        packages={name: version(name) for name in packages},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        load_at_start=round(os.getloadavg()[0], 2),
    )


def _postgresql() -> str:
    command = [str(binaries() / "postgres"), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said.split()[-1]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
