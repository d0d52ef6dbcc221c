"""A service of the engine's tests: every part of the engine, and a feature that needs no table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lifeguard import protection
from lifeguard.observability import logs, traces
from lifeguard.operations import docs_page, live_page, pool_pages, probes
from lifeguard.service import Service, made_on_demand
from lifeguard.web import plans

from packages.lifeguard.tests.sample import items
from packages.lifeguard.tests.sample.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    app: FastAPI

PROTECTIONS = ("hangup", "gate", "stale_answers", "head_as_get", "sockets", "requests")


def create_app(settings: Settings | None = None) -> Service:
    """Raises SettingsError."""
    settings = settings or Settings.load()
    logs.configure(settings)
    service = Service(settings, telemetry=traces.telemetry(settings))
    service.protect(*(getattr(protection, name) for name in PROTECTIONS))
    plans.install(service)
    pages = [probes.router, pool_pages.router, live_page.router]
    service.include_operators(*pages, *([docs_page.router] if settings.serves_docs else []))
    service.include_router(items.router)
    return service


__getattr__ = made_on_demand(sys.modules[__name__], Settings)
