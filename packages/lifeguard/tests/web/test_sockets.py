"""WebSockets: served by a real uvicorn, with the database, refused and closed as requests are."""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.middleware.cors import CORSMiddleware
from lifeguard.database import DatabaseUnavailable, call_scope
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import ConnectionDep, DatabaseDep, DrainDep, ReadConnectionDep, TransactionDep, problems
from lifeguard.web.dependencies import PinsConnection
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.web.conftest import Log
from packages.lifeguard.tests.web.test_gate import saturated

SETTINGS = {"pool_max_size": 1, "pool_max_waiting": 2, "log_level": "info", "max_body_bytes": 1000}
routes = APIRouter(prefix="/socket")
ended: list[str] = []
FAULTS: dict[str, Exception] = {
    "unforeseen": ZeroDivisionError("secret"),
    "gone": DatabaseUnavailable("gone"),
    "http": HTTPException(404),
}


@routes.websocket("/echo/{name}")
async def echo(name: str, socket: WebSocket, database: DatabaseDep) -> None:
    await socket.accept()
    while True:
        said = await socket.receive_text()
        async with database.read() as connection:
            told = await connection.fetchval("SELECT $1::text || ', ' || $2", said, name)
        await socket.send_text(told)


@routes.websocket("/tag")
async def tag(socket: WebSocket) -> None:
    await socket.accept()
    scope = call_scope.get()
    assert scope
    await socket.send_text(scope.tag)
    await socket.close()


@routes.websocket("/until/{what}")
async def until(what: str, socket: WebSocket, drain: DrainDep) -> None:
    await socket.accept()
    try:
        if what == "drain":
            await drain.wait()
            await socket.send_text("goodbye")
            await socket.close(1001)
        elif what == "message":
            await socket.receive_text()
        elif what == "sending":
            while True:
                await asyncio.sleep(0.01)
                await socket.send_text("tick")
        else:
            await asyncio.Event().wait()
    except WebSocketDisconnect:
        ended.append("disconnected")
    except asyncio.CancelledError:
        ended.append("cancelled")
        raise


@routes.websocket("/fails/{when}/{how}")
async def fails(when: str, how: str, socket: WebSocket) -> None:
    if when == "after":
        await socket.accept()
    raise FAULTS[how]


def open_socket(running: Service, path: str, **headers: str) -> connect:
    url = str(running.client.base_url).replace("http", "ws")
    return connect(f"{url}/socket/{path}", additional_headers=headers, proxy=None)


async def refused(running: Service, path: str, **headers: str) -> Response:
    with pytest.raises(InvalidStatus) as caught:
        async with open_socket(running, path, **headers):
            pass
    return caught.value.response


async def close_code(socket: ClientConnection) -> int | None:
    with suppress(ConnectionClosed):
        while True:
            await socket.recv()
    return socket.close_code


def faults_in(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Warnings and errors, but for the gate's, which sums up a second that may be another test's."""
    return [
        line for line in lines if line["level"] in {"warning", "error"} and line["logger"] != "lifeguard.gate"
    ]


class TestOpen:
    async def test_has_the_database(self, serving: Service) -> None:
        async with open_socket(serving, "echo/you") as socket:
            for said in ("hello", "again"):
                await socket.send(said)
                assert await socket.recv() == f"{said}, you"
                assert serving.state["database"].primary.stats().used == 0

    async def test_carries_the_clients_request_id(self, serving: Service) -> None:
        async with open_socket(serving, "tag", **{"X-Request-ID": "socket-1"}) as socket:
            assert socket.response
            assert socket.response.headers["x-request-id"] == "socket-1"
            assert await socket.recv() == "socket-1"

    async def test_is_counted_logged_without_its_query_and_in_flight(
        self, serving: Service, log: Log
    ) -> None:
        log()
        drain = serving.state["drain"]
        before = drain.in_flight
        async with open_socket(serving, "echo/me?token=hush"):
            assert drain.in_flight == before + 1
            metrics = (await serving.client.get("/metrics")).text
            assert 'http_requests_total{handler="/socket/echo/{name}",method="GET",status="1xx"}' in metrics
        await eventually(lambda: drain.in_flight == before)
        lines = log()
        [line] = [line for line in lines if line["event"] == "handshake"]
        assert (line["path"], line["status"]) == ("/socket/echo/me", 101)
        assert "hush" not in json.dumps(lines)
        assert not faults_in(lines)

    async def test_is_closed_when_a_message_is_larger_than_a_body_may_be(self, serving: Service) -> None:
        async with open_socket(serving, "echo/you") as socket:
            await socket.send("x" * 2000)
            assert await close_code(socket) == 1009

    async def test_outlives_the_time_that_an_idle_connection_is_kept(self, migrated_database: str) -> None:
        async with service(settings_for(migrated_database), routes=routes) as running:
            await until_ready(running)
            running.server.config.timeout_keep_alive = 0
            async with open_socket(running, "echo/you") as socket:
                await asyncio.sleep(0.1)
                await socket.send("still")
                assert await socket.recv() == "still, you"


class TestRefused:
    async def test_at_the_handshake_when_the_pool_is_saturated(self, serving: Service) -> None:
        async with saturated(serving):
            answer = await refused(serving, "echo/you", **{"X-Request-ID": "socket-2"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["content-type"] == problems.MEDIA_TYPE
        body = json.loads(answer.body)
        assert (body["type"], body["request_id"]) == ("/problems/pool-saturated", "socket-2")

    async def test_not_when_its_route_needs_no_database(self, serving: Service) -> None:
        async with saturated(serving), open_socket(serving, "tag") as socket:
            assert await socket.recv()

    @pytest.mark.parametrize(
        ("how", "status", "code"),
        [
            ("unforeseen", 500, 1011),
            ("gone", 503, 1013),
            ("http", 404, 1011),
        ],
    )
    async def test_what_fails_is_a_problem_before_and_a_close_code_after_the_handshake(
        self, serving: Service, log: Log, how: str, status: int, code: int
    ) -> None:
        log()
        answer = await refused(serving, f"fails/before/{how}")
        assert answer.status_code == status
        assert json.loads(answer.body)["status"] == status
        assert b"secret" not in answer.body
        async with open_socket(serving, f"fails/after/{how}") as socket:
            assert await close_code(socket) == code
        lines = faults_in(log())
        assert [line["event"] for line in lines] == ["socket_failed"] * 2
        assert all(line["request_id"] for line in lines)

    @pytest.mark.parametrize("kind", [ReadConnectionDep, ConnectionDep, TransactionDep])
    async def test_at_the_start_if_it_would_keep_a_connection(
        self, migrated_database: str, kind: object
    ) -> None:
        pinning = APIRouter()

        async def pins(socket: WebSocket, connection: kind) -> None: ...  # type: ignore[valid-type]

        pinning.add_api_websocket_route("/pins", pins)
        app = create_app(settings_for(migrated_database))
        app.include_router(pinning, prefix="/v1")
        with pytest.raises(PinsConnection, match=r"/v1/pins .* DatabaseDep"):
            async with app.router.lifespan_context(app):
                pass
        assert app.refusal
        assert "DatabaseDep" in app.refusal

    async def test_at_the_handshake_if_it_would_and_is_mounted(
        self, migrated_database: str, log: Log
    ) -> None:
        async with service(settings_for(migrated_database)) as running:
            await until_ready(running)
            mounted = FastAPI()

            @mounted.websocket("/pins")
            async def pins(socket: WebSocket, connection: ConnectionDep) -> None: ...

            running.app.mount("/socket", mounted)
            assert (await refused(running, "pins")).status_code == 500
            [line] = [line for line in log() if line["event"] == "socket_failed"]
            assert "DatabaseDep" in line["exception"]


class TestDrain:
    @pytest.mark.parametrize(
        ("what", "end"),
        [("message", ["disconnected"]), ("sending", ["disconnected"]), ("never", ["cancelled"])],
    )
    async def test_closes_with_service_restart_after_the_grace(
        self, migrated_database: str, what: str, end: list[str], log: Log
    ) -> None:
        ended.clear()
        async with service(settings_for(migrated_database, drain_streams=0.2), routes=routes) as running:
            await until_ready(running)
            log()
            async with (
                open_socket(running, "echo/you") as other,
                open_socket(running, f"until/{what}") as socket,
            ):
                started = time.monotonic()
                await running.stop()
                await other.send("meanwhile")
                assert await other.recv() == "meanwhile, you"
                assert await close_code(socket) == 1012
                assert time.monotonic() - started > 0.19
                assert await close_code(other) == 1012
        assert ended == end
        assert running.state["drain"].cut_off == 0
        assert not faults_in(log())

    async def test_ends_an_endpoint_that_has_not_noticed_that_its_client_is_gone(
        self, migrated_database: str, log: Log
    ) -> None:
        ended.clear()
        async with service(settings_for(migrated_database, drain_streams=0.1), routes=routes) as running:
            await until_ready(running)
            log()
            async with open_socket(running, "until/never"):
                pass
            await running.stop()
        assert ended == ["cancelled"]
        assert not faults_in(log())

    async def test_lets_an_endpoint_say_goodbye(self, migrated_database: str) -> None:
        async with (
            service(settings_for(migrated_database, drain_streams=5), routes=routes) as running,
            open_socket(running, "until/drain") as socket,
        ):
            await running.stop()
            assert await socket.recv() == "goodbye"
            assert await close_code(socket) == 1001


@pytest.mark.parametrize(
    ("query", "cookie", "status"),
    [("&" * 1000, "", 400), ("", "a=" + "\\" * 400, 431)],
    ids=["query", "cookie"],
)
async def test_a_handshake_has_a_number_of_parts(
    serving: Service, query: str, cookie: str, status: int
) -> None:
    answer = await refused(serving, f"tag?{query}", Cookie=cookie)
    assert answer.status_code == status
    assert json.loads(answer.body or b"")["status"] == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://shop.example", 101),
        ("https://evil.example", 403),
        ("https://shop.example.evil.example", 403),
        ("null", 403),
        ("http://{host}", 101),
        ("http://{host}0", 403),
        ("http://user@{host}", 403),
    ],
)
async def test_only_pages_of_its_own_host_and_those_that_cors_lets_in_may_open_one(
    migrated_database: str, origin: str, status: int
) -> None:
    def allow(app: FastAPI) -> None:
        app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])

    settings = settings_for(migrated_database, **SETTINGS)
    async with service(settings, routes=routes, prepare=allow) as running:
        sent = origin.format(host=running.client.base_url.netloc.decode())
        if status == 101:
            async with open_socket(running, "tag", Origin=sent) as socket:
                assert await socket.recv()
        else:
            answer = await refused(running, "tag", Origin=sent)
            assert answer.status_code == status
            assert json.loads(answer.body or b"")["type"] == "/problems/foreign-origin"


async def test_no_page_of_another_host_may_open_one_as_long_as_no_cors_lets_it_in(serving: Service) -> None:
    assert (await refused(serving, "tag", Origin="https://shop.example")).status_code == 403
