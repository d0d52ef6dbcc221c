"""The service's settings: the engine's, and its own.

A variable of your own is a field here, of any type. It has its line in `.env.example` (`make generated`), and
its line at the start when its value is wrong. What is secret in it stays out of the logs. The README has an
example.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from lifeguard import settings


class Settings(settings.Settings):
    migrations: ClassVar = Path(__file__).parents[1] / "migrations"
    defaults: ClassVar[Mapping[str, object]] = {"service_name": "ledger"}
