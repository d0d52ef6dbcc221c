"""The smallest service on the same packages: FastAPI, uvicorn, one route, on the port of its argument."""

from __future__ import annotations

import sys

import asyncpg  # noqa: F401 - a service with a database imports it
import fastapi
import pydantic_settings  # noqa: F401
import uvicorn

app = fastapi.FastAPI()


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "alive"}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
