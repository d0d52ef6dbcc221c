"""Routes that look as if a plan could answer them: it does as FastAPI does, or leaves them to it."""

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import Body, Depends, Header, HTTPException, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from lifeguard.service import Service
from lifeguard.web import ReadConnectionDep, dependencies
from pydantic import BaseModel
from starlette.convertors import CONVERTOR_TYPES, StringConvertor
from starlette.responses import PlainTextResponse
from starlette.routing import Router

from packages.lifeguard.tests.web.asgi import Asked
from packages.lifeguard.tests.web.both import Both

AS_JSON = ((b"content-type", b"application/json"),)
FIVE = (b'{"n": 5}',)


class Number(BaseModel):
    n: int


class Client:
    """A dependency that has whatever attribute it is asked for, as clients of remote procedures do."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda: None

    async def __call__(self, q: int = 1) -> str:
        return f"called with {q}"


class Changing(HTTPBearer):
    """A security scheme with a mind of its own."""

    async def __call__(self, request: Request) -> Any:  # type: ignore[override]  # as most write it
        request.scope["query_string"] = b"n=3"
        return await super().__call__(request)


async def body_changed(document: Annotated[Any, Body()]) -> None:
    document["n"] = 42


async def request_changed(request: Request) -> None:
    (await request.json())["n"] = 42


def prepare(app: Service) -> None:  # noqa: C901 - a list of routes
    @app.get("/a/client")
    async def of_client(said: Annotated[str, Depends(Client())]) -> str:
        return said

    @app.post("/a/body-changed", dependencies=[Depends(body_changed)])
    async def after_body(document: Number) -> Number:
        return document

    @app.post("/a/request-changed", dependencies=[Depends(request_changed)])
    async def after_request(document: Number) -> Number:
        return document

    @app.get("/a/scheme", dependencies=[Depends(Changing(auto_error=False))])
    async def after_scheme(n: int = 1) -> int:
        return n

    @app.get("/a/status/{status}")
    async def of_status(status: int, response: Response) -> dict[str, int]:
        response.status_code = status
        return {"a": 1}

    @app.get("/a/status-said/{status}", status_code=202)
    async def of_status_said(status: int, response: Response) -> dict[str, int]:
        response.status_code = status
        return {"a": 1}

    @app.post("/a/heard")
    async def heard(document: Number, request: Request) -> Any:
        """What comes after the body: nothing, while the client stays."""
        try:
            async with asyncio.timeout(0.01):
                return [document.n, await request.receive()]
        except TimeoutError:
            return [document.n, await request.body() == FIVE[0]]

    @app.get("/a/app")
    async def of_app(request: Request) -> Response:
        """An app answers that goes by the service's handlers of exceptions."""

        class Answered(Response):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await Router()({**scope, "path": "/", "root_path": ""}, receive, send)

        return Answered() if "starlette.exception_handlers" in request.scope else PlainTextResponse("none")

    async def of_database(connection: ReadConnectionDep) -> str:
        return str(connection)

    app.router.routes.append(APIRoute("/a/database", of_database))  # which knows of no app


ALIKE = (
    (Asked("GET", "/a/client?q=2"), True),
    (Asked("POST", "/a/body-changed", AS_JSON, FIVE), False),
    (Asked("POST", "/a/request-changed", AS_JSON, FIVE), False),
    (Asked("GET", "/a/scheme?n=7"), False),
    *((Asked("GET", f"/a/status/{status}"), True) for status in (0, 201, 204)),
    *((Asked("GET", f"/a/status-said/{status}"), True) for status in (0, 201, 204)),
    (Asked("POST", "/a/heard", AS_JSON, FIVE), True),
    (Asked("POST", "/a/heard", AS_JSON, (b'{"n"', b": 5}")), True),
    (Asked("GET", "/a/app"), True),
)


@pytest.mark.parametrize(("asked", "planned"), ALIKE, ids=lambda one: getattr(one, "target", None))
async def test_the_answer_is_fastapis_also_of(asked: Asked, planned: bool) -> None:
    assert await Both(prepare).same(asked) == planned


def with_header_that_nobody_can_send(app: Service) -> None:
    prepare(app)

    @app.get("/a/header")
    async def of_header(x: Annotated[str | None, Header(alias="x-имя")] = None) -> str | None:
        return x


async def test_a_header_that_nobody_can_send_is_of_no_concern_to_other_routes() -> None:
    services = Both(with_header_that_nobody_can_send)
    assert await services.same(Asked("GET", "/a/status/201"))
    assert not await services.same(Asked("GET", "/a/header"))


class Twice(StringConvertor):
    """Has a group of its own, and refers to it. Starlette cannot read a path that it takes."""

    regex = r"(?P<letter>[a-z])(?P=letter)"


async def test_a_convertor_that_refers_to_a_group_is_of_no_concern_to_other_routes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CONVERTOR_TYPES, "twice", Twice())

    def with_references(app: Service) -> None:
        prepare(app)

        @app.get("/b/{pair:twice}")
        async def of_pair(pair: str) -> str:
            return pair

    services = Both(with_references)
    assert await services.same(Asked("GET", "/a/status/201"))
    assert not await services.same(Asked("GET", "/b/aa"))
    assert not await services.same(Asked("GET", "/b/ab"))


async def test_an_override_of_the_database_is_followed_on_routes_that_know_of_no_app() -> None:
    services = Both(prepare)
    asked = Asked("GET", "/a/database")

    async def another() -> None:
        raise HTTPException(418, "another")

    for app in (services.planned, services.plain):
        app.dependency_overrides[dependencies.database] = another
    assert not await services.same(asked)
