"""Services that are made and not started: they open nothing, and ask no database."""

from functools import cache

from lifeguard import settings as engine
from lifeguard.observability import logs
from lifeguard.operations import live_page, pool_pages, probes
from lifeguard.service import Service
from pydantic import SecretStr

from app.main import create_app
from app.settings import Settings

NOWHERE = SecretStr("postgresql://nobody@localhost/nowhere")


@cache
def service() -> Service:
    """Give the service."""
    return create_app(Settings(database_url=NOWHERE, log_level="critical"))


@cache
def engine_alone() -> Service:
    """Give a service with what the engine has and nothing else, with a primary pool and a replica's."""
    settings = engine.Settings(database_url=NOWHERE, database_replica_url=NOWHERE, log_level="critical")
    logs.configure(settings)
    made = Service(settings)
    for router in (probes.router, pool_pages.router, live_page.router):
        made.include_operators(router)
    return made
