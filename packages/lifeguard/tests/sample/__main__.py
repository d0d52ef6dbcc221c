"""The sample service, started."""

from packages.lifeguard.tests.sample.commands import cli

cli(prog_name="python -m packages.lifeguard.tests.sample")
