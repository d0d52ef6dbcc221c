"""Where the service is, and its command line, run to its end; see also `lifeguard.testing.processes`."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lifeguard.testing.processes import environment

ROOT = Path(__file__).parents[1]


def run_command(
    *arguments: str, cwd: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m app` with these arguments, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=cwd,
        env=environment(**(variables or {})),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
