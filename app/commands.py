"""The service's command line: the engine's commands, and the place for its own (`@cli.command()`)."""

from lifeguard.commands import command_line

from app.main import create_app
from app.settings import Settings

cli = command_line(create_app, Settings)
