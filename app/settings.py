"""The service's settings: the engine's, and its own.

A variable of your own is a field here. It has its line in `.env.example` (`make generated`), its line at the
start when its value is wrong, and its place in `settings` wherever the state of the service is.
"""

from pathlib import Path
from typing import ClassVar

from lifeguard import settings


class Settings(settings.Settings):
    migrations: ClassVar = Path(__file__).parents[1] / "migrations"
