"""Listening for the client's end must not take anything from the app."""

import asyncio

import pytest
from fastapi import APIRouter, Request
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually

routes = APIRouter(prefix="/late")


@routes.api_route("/body", methods=["GET", "POST"])
async def read_late(request: Request) -> int:
    """Read the body only when the listener has been at work."""
    await eventually(lambda: any(task.get_name() == "hangup" for task in asyncio.all_tasks()))
    return len(await request.body())


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_app_that_reads_late_is_not_kept_waiting(serving: Service, method: str) -> None:
    answer = await serving.client.request(method, "/late/body")
    assert answer.json() == 0


async def test_a_body_sent_in_pieces_arrives_whole(serving: Service) -> None:
    reader, writer = await asyncio.open_connection(serving.client.base_url.host, serving.client.base_url.port)
    writer.write(
        b"POST /items HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Content-Length: 15\r\nConnection: close\r\n\r\n"
    )
    drain = serving.state["drain"]
    await eventually(lambda: drain.in_flight == 1)
    for piece in (b'{"name"', b":", b'"slow"', b"}"):
        writer.write(piece)
        await asyncio.sleep(0.15)  # longer, all in all, than the listener waits
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 201")
    assert b'{"name":"slow"}' in answer
