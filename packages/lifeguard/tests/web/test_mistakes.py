"""A connection that is used after its endpoint has returned: the error says what to do instead."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks
from fastapi.responses import StreamingResponse
from lifeguard.web import ReadConnectionDep, TransactionDep

from packages.lifeguard.tests.inside import service, settings_for

routes = APIRouter()


@routes.get("/streamed")
async def streamed(connection: ReadConnectionDep) -> StreamingResponse:
    async def rows() -> AsyncIterator[str]:
        yield "id\n"
        for row in await connection.fetch("SELECT 1 AS id"):
            yield f"{row['id']}\n"

    return StreamingResponse(rows(), media_type="text/csv")


@routes.get("/later")
async def later(transaction: TransactionDep, background: BackgroundTasks) -> str:
    background.add_task(transaction.execute, "SELECT 1")
    return "later"


@pytest.mark.parametrize("path", ["/streamed", "/later"])
async def test_is_told_with_its_route_and_the_remedy(
    database_url: str, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    async with service(settings_for(database_url), routes=routes) as running:
        try:
            await running.client.get(path)
        except httpx.RemoteProtocolError:  # the stream was broken off
            assert path == "/streamed"
        await asyncio.sleep(0)
    said = capsys.readouterr().out
    assert f"that of GET {path} ended when its endpoint returned" in said
    assert "takes DatabaseDep and borrows with `async with database.read()`" in said
