"""What the middleware foresees is what the router does, whatever the routes are."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from lifeguard.web.routes import Routing
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route

Entry = tuple[str, str, Any]
"""("api" or "plain", path, methods), or ("include", "router", "app" or "host", prefix, table)"""

METHODS = ("GET", "HEAD", "POST", "DELETE", "PROPFIND")
PREFIXES = ("/a", "/{tenant}", "/b/a", "/{deep:path}")
PATHS = ("/a", "/b", "/a/b", "/{x}", "/{n:int}", "/a/{x}", "/{x}/b", "/{x}/{n:int}", "/{rest:path}", "/")
ASKED = (
    "",
    "/",
    "/a",
    "/b",
    "/1",
    "/a/b",
    "/a/1",
    "/a/a",
    "/b/a/1",
    "/a/a/b",
    "/a/b/a/1",
    "/a/",
    "/a\n",
    "/c//b",
)
HOST = "other.example"

methods = st.sets(st.sampled_from(("GET", "POST", "DELETE")), min_size=1)
leaves = st.one_of(
    st.tuples(st.just("api"), st.sampled_from(PATHS), methods),
    st.tuples(st.just("plain"), st.sampled_from(PATHS), methods | st.none()),
)
tables = st.recursive(
    st.lists(leaves, max_size=4),
    lambda table: st.lists(
        leaves
        | st.tuples(st.sampled_from(("include", "router", "app", "host")), st.sampled_from(PREFIXES), table),
        max_size=4,
    ),
    max_leaves=15,
)


class Mark:
    """What a route depends on, by which it is known."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self) -> None: ...


class Made:
    """A service with the routes of a table, each of which answers with its name."""

    def __init__(self, table: list[Entry], root_path: str) -> None:
        self.app = FastAPI(openapi_url=None, redirect_slashes=False)
        self.under = root_path
        self.hidden: set[str] = set()
        """Routes that only the one who is asked at their place knows."""
        self.params: dict[str, Any] = {}
        """What the router has found in the path of the last request that was answered."""
        self._count = 0
        self._fill(self.app.router, table, hidden=False)

    def _fill(self, router: APIRouter, table: list[Entry], *, hidden: bool) -> None:
        for kind, path, more in table:
            if kind == "api":
                name = self._name(hidden)
                marks = [Depends(Mark(name))]
                router.add_api_route(path, self._says(name), methods=sorted(more), dependencies=marks)
            elif kind == "plain":
                name = self._name(hidden=True)
                router.routes.append(Route(path, self._says(name), methods=more))
            elif kind == "include":
                included = APIRouter()
                self._fill(included, more, hidden=hidden)
                if all(route.path for route in included.routes if isinstance(route, Route)):
                    router.include_router(included, prefix=path)
            elif kind == "app":
                app = FastAPI(openapi_url=None, redirect_slashes=False)
                self._fill(app.router, more, hidden=hidden)
                router.routes.append(Mount(path, app))
            else:
                below = APIRouter(redirect_slashes=False)
                self._fill(below, more, hidden=hidden or kind == "host" or _has_host(more))
                router.routes.append(Host(HOST, below) if kind == "host" else Mount(path, below))

    def _name(self, hidden: bool) -> str:
        self._count += 1
        name = f"route {self._count}"
        if hidden:
            self.hidden.add(name)
        return name

    def _says(self, name: str) -> Callable[..., Awaitable[PlainTextResponse]]:
        async def says(request: Request) -> PlainTextResponse:
            self.params = request.path_params
            return PlainTextResponse(name)

        return says

    def scope(self, method: str, path: str, host: str) -> dict[str, Any]:
        headers = [(b"host", host.encode())]
        common = {"type": "http", "method": method, "query_string": b"", "headers": headers, "state": {}}
        return {**common, "path": path, "raw_path": path.encode(), "root_path": self.under}

    async def answer(self, scope: dict[str, Any]) -> tuple[int, str]:
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        await self.app({**scope, "app": self.app}, receive, send)
        body = b"".join(message.get("body", b"") for message in said[1:])
        return said[0]["status"], body.decode()


def _has_host(table: list[Entry]) -> bool:
    return any(
        kind == "host" or (kind in {"include", "router", "app"} and _has_host(more))
        for kind, _, more in table
    )


ANSWERED_BY_NO_ENDPOINT = frozenset((307, 404, 405))
"""By the router itself: 307 leads to the path with a slash more, or one less."""


@given(table=tables, root_path=st.sampled_from(("", "", "/api", "/a")), host=st.sampled_from(("test", HOST)))
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_routers(table: list[Entry], root_path: str, host: str) -> None:
    try:
        made = Made(table, root_path)
        routing = Routing(made.app)
        routing.all_served()
    except ValueError:  # the same parameter twice in a path, which no service starts with
        reject()

    async def compare(method: str, path: str) -> None:
        scope = made.scope(method, path, host)
        choice = routing.choice({**scope})
        served, found = choice.served, choice.path_params()
        status, body = await made.answer(scope)
        marks = {mark.name for mark in served.asks if isinstance(mark, Mark)} if served else set()
        if served is None:
            assert status in ANSWERED_BY_NO_ENDPOINT
        elif marks:
            assert marks == {body}
            assert served.path_params(scope) == made.params
            assert found is None or found == made.params
        else:
            assert status in ANSWERED_BY_NO_ENDPOINT or body in made.hidden

    async def compare_all() -> None:
        for method in METHODS:
            for path in ASKED:
                await compare(method, path)
                if root_path:
                    await compare(method, root_path + path)

    asyncio.run(compare_all())


def route_of(app: FastAPI, path: str) -> str | None:
    served = routing_of(app).find({"type": "http", "method": "GET", "path": path, "headers": []})
    return served.template if served else None


@cache
def routing_of(app: FastAPI) -> Routing:
    return Routing(app)


async def nothing() -> None: ...


def test_routes_may_come_and_go_while_it_serves() -> None:
    app, router, deep = FastAPI(openapi_url=None), APIRouter(), APIRouter()
    router.include_router(deep, prefix="/deep")
    app.include_router(router, prefix="/in")
    assert (route_of(app, "/in/deep/a"), route_of(app, "/in/b")) == (None, None)
    deep.add_api_route("/{a}", nothing)
    router.add_api_route("/b", nothing)
    assert (route_of(app, "/in/deep/a"), route_of(app, "/in/b")) == ("/in/deep/{a}", "/in/b")
    app.router.routes.insert(0, Route("/in/{rest:path}", nothing))
    assert route_of(app, "/in/b") == "/in/{rest:path}"
    app.router.routes[0] = Route("/in/c", nothing)  # there are as many as before
    assert (route_of(app, "/in/b"), route_of(app, "/in/c")) == ("/in/b", "/in/c")
    router.routes.clear()
    assert route_of(app, "/in/b") is None


def test_a_choice_is_for_one_method_and_path() -> None:
    app = FastAPI(openapi_url=None)
    for path in ("/a/{x}", "/b"):
        app.add_api_route(path, nothing)
    routing, scope = Routing(app), {"type": "http", "method": "GET", "path": "/a/1", "headers": []}
    assert routing.choice(scope) is routing.choice(scope)
    scope["path"] = "/b"
    assert (choice := routing.choice(scope)).served is routing.find(scope)
    assert choice.path_params() == {}
    scope["method"] = "POST"
    assert routing.choice(scope).served is None
