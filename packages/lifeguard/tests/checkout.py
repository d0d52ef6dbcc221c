"""Where this checkout is, and what the sample service is called in it."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
SAMPLE = "packages.lifeguard.tests.sample"
