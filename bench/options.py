"""Options that every benchmark takes."""

from __future__ import annotations

import argparse
from pathlib import Path

DIRECTORY = Path(__file__).parent / "results"


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """The command line of `python -m <module>`; the benchmark adds its own options."""
    options = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    options.add_argument("--quick", action="store_true", help="shorter and noisier")
    options.add_argument("--out", type=Path, default=DIRECTORY, help="where results go")
    options.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    return options
