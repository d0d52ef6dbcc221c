"""The settings of the service that the engine's tests ask."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from lifeguard import settings


class Settings(settings.Settings):
    migrations: ClassVar = Path(__file__).parent / "migrations"
    defaults: ClassVar[Mapping[str, object]] = {"service_name": "ledger"}
