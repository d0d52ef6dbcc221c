"""Its command line: `python -m packages.lifeguard.tests.sample serve`."""

from lifeguard.commands import command_line

from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.sample.settings import Settings

cli = command_line(create_app, Settings)
