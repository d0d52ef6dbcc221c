"""The sample service inside the test's own process and loop."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from lifeguard.testing.serving import Service, serving

from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.sample.settings import Settings

PATIENT: dict[str, object] = {"pool_queue_target": 0, "pool_acquire_timeout": 60}
"""On a busy machine any line of a test may take seconds: what is about one of these times names it."""


def settings_for(url: str, **values: object) -> Settings:
    """Settings for this database, with small and patient pools and no access log unless `values` say so."""
    small = {"pool_min_size": 1, "pool_max_size": 5, "log_level": "warning", "log_format": "json"}
    return Settings.model_validate({"database_url": url, **small, **PATIENT, **values})


@asynccontextmanager
async def service(
    settings: Settings, *, routes: APIRouter | None = None, prepare: Callable[[FastAPI], None] | None = None
) -> AsyncIterator[Service]:
    """Serve it, with `routes` besides its own, until the block ends."""
    app = create_app(settings)
    if prepare:
        prepare(app)
    if routes:
        app.include_router(routes)
    async with serving(app) as running:
        yield running
