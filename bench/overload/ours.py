"""The service of this project, every part of it, with the same route as the peers."""

from fastapi import FastAPI
from lifeguard.server import collector
from lifeguard.web import ConnectionDep

from app.main import create_app
from bench.overload.work import WORK


def on_lifeguard() -> FastAPI:
    """Settings come from the environment, as ever; only the pool's size is not the default."""
    app = create_app()

    @app.get("/work")
    async def work(connection: ConnectionDep) -> dict[str, bool]:
        await connection.fetchval(WORK)
        return {"done": True}

    collector.settle()  # as `app.main:app` and `python -m app serve` do
    return app
