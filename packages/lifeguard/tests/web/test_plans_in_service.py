"""What an owner adds to a service is kept where plans answer; and they say what they do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, HTTPException, Request
from fastapi._compat.v2 import ModelField
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from lifeguard.service import Service
from lifeguard.web import plans
from lifeguard.web.plans import internals
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.web import planned_routes
from packages.lifeguard.tests.web.asgi import Asked
from packages.lifeguard.tests.web.both import Both, Prepare, made
from packages.lifeguard.tests.web.conftest import Log


class Adding:
    """A middleware of the owner's: it sees what passes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "name", "none").encode()
                message["headers"] = [*message["headers"], (b"x-route", route)]
            await send(message)

        await self.app(scope, receive, send_more)


class Rewriting:
    """Another one, behind the engine's own: what they have found out of the path holds no more."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/r/query":
            scope["path"] = "/r/path/1/a/red"
        await self.app(scope, receive, send)


async def handler(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"ours": type(error).__name__, "path": request.url.path}, 499)


def with_handlers(app: Service) -> None:
    app.add_exception_handler(RequestValidationError, handler)
    app.add_exception_handler(HTTPException, handler)
    app.add_exception_handler(404, handler)
    app.add_exception_handler(planned_routes.Quiet, handler)
    app.add_exception_handler(Exception, handler)


def with_middleware(app: Service) -> None:
    app.add_middleware(Adding)

    @app.middleware("http")
    async def add(request: Request, call_next: Any) -> Any:
        answered = await call_next(request)
        answered.headers["X-Added"] = "yes"
        return answered


def with_overrides(app: Service) -> None:
    app.dependency_overrides[planned_routes.simple] = lambda n: n + 100


def with_rewriting(app: Service) -> None:
    app.user_middleware.insert(-1, Middleware(Rewriting))


def with_one_behind(app: Service) -> None:
    app.user_middleware.append(Middleware(Rewriting))


def with_router_of_its_own(app: Service) -> None:
    class Own(APIRouter):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send_text(send, "own")

    own = Own()
    own.add_api_route("/own", planned_routes.plain)
    app.include_router(own)


def with_class_of_route(app: Service) -> None:
    class Own(APIRoute):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send_text(send, "own")

    app.router.routes.insert(0, Own("/r/plain", planned_routes.plain))


def with_wrapped_app(app: Service) -> None:
    for route in app.router.routes:
        if isinstance(route, APIRoute) and route.path == "/top/{n}":
            route.app = PlainTextResponse("wrapped")


async def send_text(send: Send, text: str) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


SERVICES: tuple[tuple[Prepare, tuple[str, ...], bool], ...] = (
    (with_handlers, ("/r/raises/http", "/r/raises/quiet", "/r/raises/key", "/r/raises/teapot"), True),
    (with_handlers, ("/r/wrong", "/r/nan?value=nan"), True),
    (with_handlers, ("/r/query?limit=0", "/r/nothing", "/mounted/t/inside/x"), False),
    (with_middleware, ("/r/plain", "/r/raises/http", "/r/raises/key", "/r/returns/stream"), True),
    (with_middleware, ("/r/query?limit=0", "/r/sync"), False),
    (with_overrides, ("/r/depends?n=2", "/r/depends?n=x", "/r/plain"), False),
    (with_rewriting, ("/r/query", "/r/query?limit=5"), True),
    (with_one_behind, ("/r/query", "/r/plain"), False),
    (with_router_of_its_own, ("/own", "/r/plain"), False),
    (with_class_of_route, ("/r/plain",), False),
    (with_wrapped_app, ("/top/1",), False),
)


@pytest.mark.parametrize(("prepare", "targets", "planned"), SERVICES)
async def test_what_the_owner_adds_is_kept(prepare: Prepare, targets: Sequence[str], planned: bool) -> None:
    services = Both(prepare)
    assert [await services.same(Asked("GET", target)) for target in targets] == [planned] * len(targets)


async def test_routes_that_come_and_go_are_noticed() -> None:
    services = Both()
    apps = (services.planned, services.plain)
    assert not await services.same(Asked("GET", "/r/late/1"))
    for app in apps:
        app.include_router(planned_routes.late, prefix="/r")
    assert await services.same(Asked("GET", "/r/late/1"))
    planned_routes.late.add_api_route("/later", planned_routes.plain)  # to a router that is included
    assert await services.same(Asked("GET", "/r/later"))
    for app in apps:
        app.router.routes.insert(0, Route("/r/plain", PlainTextResponse("first")))
    assert not await services.same(Asked("GET", "/r/plain"))
    for app in apps:
        app.router.routes[0] = Route("/r/later", PlainTextResponse("in its place"))
    assert await services.same(Asked("GET", "/r/plain"))
    assert not await services.same(Asked("GET", "/r/later"))


async def test_overrides_are_followed_from_when_they_are_set_until_they_are_gone() -> None:
    services = Both()
    asked = Asked("GET", "/r/depends?n=2")
    assert await services.same(asked)
    for app in (services.planned, services.plain):
        with_overrides(app)
    assert not await services.same(asked)
    for app in (services.planned, services.plain):
        app.dependency_overrides.clear()
    assert await services.same(asked)


async def test_a_body_that_breaks_off_is_fastapis() -> None:
    """What a plan has heard of it is told again: its end, and the error that came with it."""
    services = Both()

    async def outcome(app: Service, last: Any) -> Any:
        said: list[Any] = []
        parts = iter([{"type": "http.request", "body": b'{"name"', "more_body": True}, last])

        async def receive() -> Any:
            part = next(parts, {"type": "http.disconnect"})
            if isinstance(part, Exception):
                raise part
            return part

        async def send(message: Any) -> None:
            said.append(message)

        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", b"a"),
            (b"content-length", b"99"),
        ]
        scope = {"type": "http", "method": "POST", "path": "/r/body", "query_string": b"", "headers": headers}
        await app({**scope, "raw_path": b"/r/body", "state": dict(app.parts)}, receive, send)
        return said[0]["status"], said[1]["body"]

    for last in ({"type": "http.disconnect"}, OSError("gone"), HTTPException(413)):
        assert await outcome(services.planned, last) == await outcome(services.plain, last)


def test_says_how_many_routes_are_planned_and_why_the_others_are_not() -> None:
    app = made(plans=True)
    app.middleware_stack = app.build_middleware_stack()
    report: Any = app.parts["gate"].routing.notes["plans"]()
    assert report.planned == report.routes - len(report.unplanned)
    assert report.unplanned["GET /r/sync"] == "its endpoint is no coroutine function"
    assert report.unplanned["GET /r/depends/yield"] == "its dependency yielding() is no coroutine function"
    assert report.unplanned["GET /r/depends/deep"].startswith("its dependency number_of() takes the request")
    assert report.unplanned["GET /mounted/{tenant}/inside/{n}"] == "only what is mounted there knows it"
    assert not {"GET /r/plain", "POST /r/body", "GET /healthz", "POST /items"} & report.unplanned.keys()


async def test_the_log_says_it_at_the_start_and_the_page_of_the_pool_always(
    module_database: str, log: Log
) -> None:
    async with service(settings_for(module_database, log_level="info", plans=True)) as running:
        (line,) = (line for line in log() if line["event"] == "plans")
        page = (await running.client.get("/pool")).json()["plans"]
    assert page == {"routes": line["routes"], "planned": line["planned"]}
    assert [r for r in line["rest"]["it has a response_class"] if "live" in r] == ["GET /pool/live"]
    async with service(settings_for(module_database, log_level="info", plans=False)) as running:
        assert [line["reason"] for line in log() if line["event"] == "plans_off"] == ["PLANS=false"]
        assert (await running.client.get("/pool")).json()["plans"] is None


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (internals, "KNOWN_FASTAPI", "0.1."),
        (internals, "HANDLER_KNOWS", internals.HANDLER_KNOWS - {"status_code"}),
        (internals, "HANDLER", "another"),
        (ModelField, "validate", lambda *_, **__: (None, [])),
    ],
)
def test_another_fastapi_answers_by_itself(
    module: Any, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = made(plans=True)
    monkeypatch.setattr(module, name, value)
    app.middleware_stack = app.build_middleware_stack()
    report: Any = app.parts["gate"].routing.notes["plans"]()
    assert report.planned == 0
    assert len(report.unplanned) == report.routes


def test_nothing_else_knows_of_plans() -> None:
    """So that the folder can be deleted."""
    room = Path(plans.__file__).parent
    files = [path for path in room.parents[1].rglob("*.py") if room not in path.parents]
    assert not [path for path in files if "web.plans" in path.read_text(encoding="utf-8")]
