"""The service inside the test's own process and loop, behind a real uvicorn and a real socket.

With a route of the tests' own: they hold for a service whose example feature has been deleted.
"""

from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter
from lifeguard.testing.serving import Service, serving
from lifeguard.web import ReadConnectionDep

from app.main import create_app
from app.settings import Settings

items = APIRouter(prefix="/items")


@items.get("")
async def count_items(connection: ReadConnectionDep) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM generate_series(1, 10)")
    return count


def settings_for(url: str, **values: object) -> Settings:
    """Settings for this database, with small pools and no access log unless `values` say so.

    The name is not the owner's, who may have given the service another one.
    """
    small = {"pool_min_size": 1, "pool_max_size": 5, "log_level": "warning", "log_format": "json"}
    return Settings.model_validate({"database_url": url, "service_name": "under-test", **small, **values})


def service(settings: Settings, *, routes: APIRouter | None = None) -> AbstractAsyncContextManager[Service]:
    """Serve the app, with `items` and `routes` besides its own, until the block ends."""
    app = create_app(settings)
    for router in (items, *((routes,) if routes else ())):
        app.include_router(router)
    return serving(app)
