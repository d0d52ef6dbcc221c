"""A second database: another `Database`, with a URL, a pool and a breaker of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from lifeguard import settings
from lifeguard.database import Database, ReadConnection
from lifeguard.observability import log_pool_event
from lifeguard.service import Service
from lifeguard.settings import Dsn
from lifeguard.web import problems
from pydantic import BaseModel


class Settings(settings.Settings):  # in app/settings.py: one more field
    reports_url: Dsn | None = None
    """libpq URL of the reports' database."""


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[dict[str, object]]:
    settings = service.parts["settings"]
    assert isinstance(settings, Settings)
    assert settings.reports_url is not None
    small = {
        "database_url": settings.reports_url,
        "database_replica_url": None,
        "database_password_file": None,
        "database_password_command": None,
        "pool_min_size": 0,
        "pool_max_size": 5,
    }
    apart = settings.model_copy(update=small)
    async with Database(apart, name="reports", on_event=log_pool_event) as reports:
        yield {"reports": reports}


async def reports(request: Request) -> AsyncIterator[ReadConnection]:
    database: Database = request.state.reports
    async with database.read() as connection:
        yield connection


ReportsDep = Annotated[ReadConnection, Depends(reports, scope="function")]


class Report(BaseModel):
    database: str
    lines: int


router = APIRouter(lifespan=lifespan, responses=problems.documented(*problems.DATABASE))


@router.get("/report")
async def report(connection: ReportsDep) -> Report:
    row = await connection.fetchrow("SELECT current_database() AS database, count(*) AS lines FROM lines")
    assert row is not None
    return Report(**row)
