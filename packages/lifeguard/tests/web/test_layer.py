"""One layer for the engine's protections answers and logs as they do one around the other, byte for byte."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import BackgroundTasks, Body, FastAPI, HTTPException, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from lifeguard import protection
from lifeguard.service import assembly
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from lifeguard.web import ReadConnectionDep, TransactionDep, at_once, lane, layer, max_body, stale_if_error
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.web.test_gate import saturated

SETTINGS: dict[str, object] = {
    "log_level": "info",
    "max_body_bytes": 100,
    "pool_max_size": 1,
    "pool_max_waiting": 2,
    "pool_queue_target": 4,
}
DIFFERENT = re.compile(
    rb'(?<=date: )[^\r]+|(?<="duration_ms": )[\d.e-]+|(?<="timestamp": )"[^"]+"|0x[0-9a-f]+'
)
FRAMES = re.compile(rb'(?<="exception": ")(?:[^"\\]|\\.)*\\n(?=[^"])')
"""Of a traceback, which shows the way through the middlewares, all but the last line."""


class Teapot(Exception):
    """What the service has a handler for."""


class Wrapping:
    """A middleware of the owner's, with a `send` of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-wrapped", b"yes")]}
            await send(message)

        await self.app(scope, receive, noting)


def failing(_: Request) -> Response:
    raise ZeroDivisionError


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers as plans do."""
    body = scope["query_string"] or b"whole"
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"text/plain")]
    await at_once.answer(send, 200, headers, body)


def routes(app: FastAPI) -> None:  # noqa: C901 - a list of what endpoints do
    @app.get("/plain/{number}")
    async def plain(number: int) -> int:
        return number

    @app.get("/row")
    async def row(connection: ReadConnectionDep) -> int:
        value: int = await connection.fetchval("SELECT 7")
        return value

    @app.post("/write", status_code=201)
    async def write(transaction: TransactionDep, name: str = Body(embed=True)) -> str:
        value: str = await transaction.fetchval("SELECT $1::text", name)
        return value

    @app.post("/length", dependencies=[max_body(50)])
    async def length(request: Request) -> int:
        return len(await request.body())

    @app.get("/fails/{how}")
    async def fails(how: str) -> Response:
        if how == "teapot":
            raise Teapot
        if how == "http":
            raise HTTPException(418, "short", headers={"X-Tea": "green"})
        if how == "header":
            return Response(headers={"X-Said": "a\nb"})
        if how == "length":
            return Response("abc", headers={"content-length": "2"})
        raise ZeroDivisionError(how)

    @app.get("/background/{how}")
    async def background(how: str, tasks: BackgroundTasks) -> str:
        async def later() -> None:
            if how == "fails":
                raise Teapot

        tasks.add_task(later)
        return how

    @app.get("/stream/{how}")
    async def stream(how: str) -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "one"
            if how == "fails":
                raise ZeroDivisionError
            yield "two"

        return StreamingResponse(parts(), media_type="text/event-stream" if how == "events" else "text/plain")

    @app.get("/stale", dependencies=[stale_if_error(seconds=60), lane("old")])
    async def stale() -> str:
        return "kept"

    @app.get("/empty", status_code=204)
    async def empty() -> None: ...

    @app.get("/closing")
    async def closing() -> Response:
        return Response("bye", headers={"Connection": "close", "Cache-Control": "max-age=5"})

    below = Starlette()
    below.add_route("/x", lambda _: Response("below"))
    below.add_route("/fails", failing)
    app.mount("/mounted", below)
    app.mount("/whole", whole)


def get(path: str, *fields: str, method: str = "GET", body: str = "", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", "X-Request-ID: r1", "Connection: close", *fields]
    if body:
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    return ("\r\n".join([*lines, "", ""]) + body).encode("latin-1")


REQUESTS = [
    *(
        get(path)
        for path in ("/plain/1", "/plain/x", "/nowhere", "/row", "/items", "/empty", "/closing", "/healthz")
    ),
    *(get(f"/fails/{how}") for how in ("teapot", "http", "header", "length", "unforeseen")),
    *(get(f"/stream/{how}") for how in ("works", "fails", "events")),
    *(get(f"/background/{how}") for how in ("works", "fails")),
    *(get(path, method="HEAD") for path in ("/plain/1", "/row", "/nowhere", "/fails/teapot", "/whole/")),
    *(get(f"/mounted/{path}") for path in ("x", "fails", "nothing")),
    *(get("/stale", method=method) for method in ("GET", "POST", "HEAD")),
    get("/whole/"),
    get("/whole/?" + "x" * 5000),
    get("/whole/", version="1.0"),
    get("/plain/1", version="1.0"),
    get("/plain/1", method="DELETE"),
    get("/plain/1", method="OPTIONS"),
    get("/plain/1", "Origin: http://a.example"),
    get("/write", method="POST", body='{"name": "a"}'),
    get("/write", method="POST", body='{"name": 1}'),
    get("/write", "Expect: 100-continue", method="POST", body='{"name": "b"}'),
    get("/length", method="POST", body="x" * 50),
    get("/length", method="POST", body="x" * 51),
    get("/length", "Expect: 100-continue", method="POST", body="x" * 51),
    get("/length", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n",
    get("/length", "Transfer-Encoding: chunked", method="POST") + b"40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n",
    get("/plain/1", "X-Request-Timeout: soon"),
    get("/row", "X-Request-Timeout: 5", "X-Request-Priority: background"),
    get("/row", "X-Request-Priority: first"),
    get("/plain/1", "X-Request-Timeout: 1", "X-Request-Timeout: 1"),
    get("/plain/1?" + "a&" * 1000),
    get("/plain/" + "9" * 4301),
    get("/plain/1", "X-Forwarded-For: 192.0.2.7, 127.0.0.1", "X-Forwarded-Proto: https"),
    get("/plain/1").replace(b"Connection: close\r\n", b"") * 3 + get("/row"),
    get("/whole/").replace(b"Connection: close\r\n", b"") * 3 + get("/whole/"),
]
REFUSED = [get("/row"), get("/%72ow"), get("/row", method="HEAD"), get("/write", method="POST", body="{}")]
"""What is sent while nothing can be had from the pool."""


def plain(app: FastAPI) -> None:
    routes(app)


def handled(app: FastAPI) -> None:
    """Handlers of the owner's, one of which is for what nobody foresaw."""
    routes(app)

    async def teapot(request: Request, _: Exception) -> JSONResponse:
        return JSONResponse({"path": request.url.path}, 418, headers={"X-Handled": "yes"})

    app.add_exception_handler(Teapot, teapot)
    app.add_exception_handler(500, teapot)


def around(app: FastAPI) -> None:
    handled(app)
    app.add_middleware(CORSMiddleware, allow_origins=["http://a.example"])
    app.add_middleware(Wrapping)


def behind(app: FastAPI) -> None:
    handled(app)
    app.user_middleware.append(Middleware(Wrapping))


def between(app: FastAPI) -> None:
    handled(app)
    app.user_middleware.insert(3, Middleware(Wrapping))


def fewer(app: FastAPI) -> None:
    """Without some of the protections."""
    handled(app)
    left_out = {"HangupMiddleware", "StaleIfError", "SocketMiddleware"}
    app.user_middleware[:] = [
        one for one in app.user_middleware if str(one.cls).split(".")[-1][:-2] not in left_out
    ]


def below_a_path(app: FastAPI) -> None:
    handled(app)
    app.root_path = "/api"


APPS: dict[Callable[[FastAPI], None], tuple[bool, bool]] = {
    plain: (True, True),
    handled: (True, True),
    around: (True, False),
    behind: (True, True),
    between: (False, True),
    fewer: (True, True),
    below_a_path: (True, True),
}
"""Whether there is one layer, and whether it is met first."""


async def heard(url: str, said: bytes) -> bytes:
    """All that is answered on a connection of its own, up to its end."""
    where = urlsplit(url)
    loop, answers = asyncio.get_running_loop(), b""
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, (where.hostname, where.port))
        await loop.sock_sendall(client, said)
        async with asyncio.timeout(120):
            while more := await loop.sock_recv(client, 2**16):
                answers += more
    return answers


async def told(serving: Service, capsys: pytest.CaptureFixture[str]) -> list[tuple[bytes, bytes]]:
    """What each request is answered, and what is logged of it."""
    url, all_told = str(serving.client.base_url), []
    capsys.readouterr()
    for request in REQUESTS:
        answer = DIFFERENT.sub(b"", await heard(url, request))
        await eventually(lambda: not serving.state["drain"].in_flight)  # it may be logged after the answer
        lines = [line for line in capsys.readouterr().out.splitlines() if '"lifeguard.request"' in line]
        all_told.append((answer, FRAMES.sub(b"", DIFFERENT.sub(b"", "\n".join(lines).encode()))))
    async with saturated(serving):
        for request in REFUSED:
            answer = DIFFERENT.sub(b"", await heard(url, request))
            all_told.append((answer, b""))
    return all_told


@pytest.mark.parametrize("prepare", APPS, ids=lambda prepare: prepare.__name__)
async def test_answers_and_logs_are_those_of_nested_middlewares(
    prepare: Callable[[FastAPI], None],
    module_database: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_for(module_database, **SETTINGS)
    monkeypatch.setattr(layer, "TOGETHER", False)
    async with service(settings, prepare=prepare) as nested:
        assert not is_one_layer(nested.app)
        expected = await told(nested, capsys)
    monkeypatch.setattr(layer, "TOGETHER", True)
    async with service(settings, prepare=prepare) as running:
        one, first = APPS[prepare]
        assert (is_one_layer(running.app), running.app._front is not None) == (one, first)
        got = await told(running, capsys)
    for request, known, now in zip([*REQUESTS, *REFUSED], expected, got, strict=True):
        assert now == known, request


def is_one_layer(app: Any) -> bool:
    chain = layer._chain(app.middleware_stack)
    return any(getattr(one, "layer", None) is not None for one in chain)


class TestStepsAside:
    @pytest.fixture(autouse=True)
    def _together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(layer, "TOGETHER", True)

    def stack(self, change: Callable[[Any], object]) -> assembly.Service:
        app = assembly.Service(settings_for("postgresql://nobody@localhost/x"))
        app.protect(*protection.STANDARD)
        change(app)
        app.middleware_stack = app.build_middleware_stack()
        return app

    def test_for_protections_in_another_order(self) -> None:
        app = self.stack(lambda app: app.user_middleware.reverse())
        assert not is_one_layer(app)

    @pytest.mark.parametrize(("kind", "name"), layer._ENTRANCES)
    def test_for_methods_that_a_tracer_has_replaced(
        self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str
    ) -> None:
        own = getattr(kind, name)

        def traced(*arguments: Any) -> Awaitable[None]:
            traced_result: Awaitable[None] = own(*arguments)
            return traced_result

        monkeypatch.setattr(kind, name, traced)
        assert self.stack(lambda _: None)._front is None

    def test_for_telemetry_and_a_limit_of_fastapis(self) -> None:
        assert self.stack(lambda _: None)._front is not None
        assert self.stack(lambda app: setattr(app, "max_body_size", 5))._front is None
        assert self.stack(lambda app: setattr(app, "_is_observed", True))._front is None

    async def test_for_what_is_put_around_the_finished_stack(self) -> None:
        app = self.stack(lambda _: None)
        seen = []

        async def around(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["path"])

        app.middleware_stack = around
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "query_string": b""}
        await app(scope, None, None)  # type: ignore[arg-type]  # are not called
        assert seen == ["/x"]
