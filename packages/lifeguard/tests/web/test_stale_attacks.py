"""Stale answers under attack: nobody gets what was made for somebody else, or pushes out what others need."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Cookie, Depends, FastAPI, Header, Query, Request, Response, Security
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import (
    APIKeyCookie,
    APIKeyHeader,
    APIKeyQuery,
    HTTPBasic,
    HTTPBearer,
    OAuth2PasswordBearer,
)
from lifeguard.web import DatabaseDep, ReadConnectionDep, stale_if_error
from lifeguard.web.dependencies import ConnectionDep, DrainDep
from lifeguard.web.reads import reads_of
from lifeguard.web.routes import Routing
from lifeguard.web.stale import StaleIfError, may_be_stale
from pydantic import AliasChoices, BaseModel
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

KEEP = [stale_if_error(seconds=60)]


class Filters(BaseModel):
    model_config = {"extra": "allow"}
    size: int = 1


class Headers(BaseModel):
    model_config = {"extra": "allow"}
    x_tenant: str = ""


class OfItsOwn(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            await handle(request)
            return Response(request.headers.get("x-tenant", ""))

        return told


async def tenant(x_tenant: Annotated[str, Header()] = "") -> str:
    return x_tenant


async def aliased(tenant: Annotated[str, Header(alias="X-Tenant")] = "") -> str:
    return tenant


async def nested(tenant: Annotated[str, Depends(tenant)]) -> str:
    return tenant


async def by_request(request: Request) -> str:
    return f"{request.headers.get('x-tenant')} {request.query_params} {request.client}"


async def by_connection(connection: HTTPConnection) -> str:
    return f"{connection.headers.get('x-tenant')} {connection.query_params}"


class Asker:
    def __init__(self, request: Request) -> None:
        self.who = request.headers.get("x-tenant")


class Own(APIKeyHeader):
    async def __call__(self, request: HTTPConnection) -> str | None:
        return request.headers.get("x-secretly")


def api() -> FastAPI:
    """Each route says who it thinks is asking."""
    api = FastAPI()
    who: dict[str, object] = {
        "declared": Depends(tenant),
        "aliased": Depends(aliased),
        "nested": Depends(nested),
        "request": Depends(by_request),
        "connection": Depends(by_connection),
        "class": Depends(Asker),
        "key-header": Security(APIKeyHeader(name="X-Custom-Key", auto_error=False)),
        "key-query": Security(APIKeyQuery(name="key", auto_error=False)),
        "key-cookie": Security(APIKeyCookie(name="key", auto_error=False)),
        "bearer": Security(HTTPBearer(auto_error=False)),
        "basic": Security(HTTPBasic(auto_error=False)),
        "oauth": Security(OAuth2PasswordBearer("/token", auto_error=False)),
        "own": Security(Own(name="X-Custom-Key", auto_error=False)),
    }
    for name, dependency in who.items():

        async def tell(who: Annotated[object, dependency]) -> str:
            return str(getattr(who, "who", who))

        api.get(f"/{name}", dependencies=KEEP)(tell)

    api.include_router(_by_parameters())
    api.include_router(_under_a_router())
    own = APIRouter(route_class=OfItsOwn)
    own.get("/own-class", dependencies=KEEP)(tenant)
    api.include_router(own)
    return api


def _by_parameters() -> APIRouter:
    api = APIRouter()

    @api.get("/cookie", dependencies=KEEP)
    async def cookie(session: Annotated[str, Cookie()] = "") -> str:
        return session

    @api.get("/itself", dependencies=KEEP)
    async def itself(request: Request) -> str:
        return str(request.query_params) + request.headers.get("x-tenant", "")

    @api.get("/filters", dependencies=KEEP)
    async def filters(filters: Annotated[Filters, Query()]) -> str:
        return str(filters)

    @api.get("/header-model", dependencies=KEEP)
    async def header_model(headers: Annotated[Headers, Header()]) -> str:
        return str(headers)

    @api.get("/body", dependencies=KEEP)
    async def body(body: Filters | None = None) -> str:
        return str(body)

    @api.get("/choices", dependencies=KEEP)
    async def choices(value: Annotated[str, Query(validation_alias=AliasChoices("a", "b"))] = "") -> str:
        return value

    @api.get("/public", dependencies=KEEP)
    async def public(
        response: Response, limit: int = 1, tag: Annotated[list[str] | None, Query()] = None
    ) -> str:
        return f"{limit} {tag}"

    @api.get("/varying", dependencies=KEEP)
    async def varying(response: Response) -> str:
        response.headers["vary"] = "Accept"
        return "by accept"

    return api


def _under_a_router() -> APIRouter:
    router = APIRouter(prefix="/router", dependencies=[Depends(tenant)])

    @router.get("/below", dependencies=KEEP)
    async def below() -> str:
        return "of a tenant"

    return router


class Bench:
    def __init__(self, *, most_answers: int = 12, most_bytes: int = 10**6) -> None:
        self.fails = False
        self.service = api()

        @self.service.get("/small/{name}", dependencies=KEEP)
        @self.service.get("/large/{name}", dependencies=KEEP)
        async def sized(name: str, size: int = 100) -> Response:
            return Response(b"x" * size)

        async def failing(scope: Scope, receive: Receive, send: Send) -> None:
            if not self.fails:
                await self.service(scope, receive, send)
                return
            await Response(status_code=503)(scope, receive, send)

        self.layer = StaleIfError(
            failing,
            routing=Routing(self.service),
            name="test",
            note=lambda _: None,
            most_answers=most_answers,
            most_bytes=most_bytes,
        )

    async def get(
        self, path: str, headers: dict[str, str] | None = None, client: str = "192.0.2.1"
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.layer, client=(client, 1))
        request = httpx.Request("GET", f"http://test{path}", headers={"Host": "test", **(headers or {})})
        answer = await transport.handle_async_request(request)
        await answer.aread()
        return answer

    async def is_kept(self, path: str, headers: dict[str, str] | None = None) -> bool:
        self.fails = True
        answer = await self.get(path, headers)
        self.fails = False
        return answer.status_code == 200


@pytest.fixture
def bench() -> Bench:
    return Bench()


IDENTITIES = [
    {"X-Tenant": "mallory"},
    {"X-Custom-Key": "mallory"},
    {"X-Secretly": "mallory"},
    {"X-Api-Key": "mallory"},
    {"Authorization": "Bearer mallory"},
    {"Cookie": "key=mallory; session=mallory"},
    {"X-Forwarded-User": "mallory"},
]
ROUTES = [
    context.path
    for context in iter_route_contexts(api().routes)
    if isinstance(context.original_route, APIRoute)
]


@pytest.mark.parametrize("path", ROUTES)
async def test_no_answer_reaches_anybody_whom_the_route_tells_apart(path: str) -> None:
    """Whatever a route tells apart, by whatever means: a stale answer is the one that it would have given."""
    askers: list[tuple[str, dict[str, str]]] = [
        ("", {}),
        ("?key=mallory", {}),
        ("?x=1", {}),
        ("?limit=7", {}),
    ]
    askers += [("", identity) for identity in IDENTITIES]
    bench = Bench()
    fresh = {index: await bench.get(path + q, h) for index, (q, h) in enumerate(askers)}
    for query, headers in askers:
        bench.layer.shelf.forget((b"test", path))
        bench.fails = False
        await bench.get(path + query, headers)
        bench.fails = True
        for index, (other_query, other_headers) in enumerate(askers):
            answer = await bench.get(path + other_query, other_headers)
            assert answer.status_code == 503 or answer.text == fresh[index].text


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        *((f"/{name}", True) for name in ("public", "declared", "nested", "key-header", "bearer", "filters")),
        *((f"/{name}", False) for name in ("request", "connection", "class", "itself", "own", "body")),
        *((f"/{name}", False) for name in ("header-model", "own-class")),
        *(("/public?limit=2", True), ("/public?tag=a&tag=b&limit=3", True), ("/filters?anything=1", True)),
        *(("/public?x=1", False), ("/public?limit=2&x=1", False), ("/key-query?key=1", False)),
        *(("/choices?b=1", True), ("/router/below", True)),
    ],
)
async def test_what_is_kept_is_what_can_be_told(bench: Bench, path: str, kept: bool) -> None:
    assert (await bench.get(path)).status_code == 200
    assert await bench.is_kept(path) is kept


async def test_a_route_whose_answers_are_not_kept_says_why(bench: Bench) -> None:
    with capture_logs() as lines:
        for _ in range(3):
            await bench.get("/itself")
    assert [(line["event"], line["route"]) for line in lines] == [("stale_if_error_off", "/itself")]


async def test_the_same_question_has_one_place(bench: Bench) -> None:
    await bench.get("/public?limit=2&tag=a&tag=b")
    assert await bench.is_kept("/public?tag=a&tag=b&limit=2")
    assert await bench.is_kept("/public?limit=%32&tag=a&tag=b")
    assert not await bench.is_kept("/public?limit=2&tag=b&tag=a")


@pytest.mark.parametrize(
    "attack",
    [
        lambda n: (f"/small/victim?x={n}", {}),
        lambda n: (f"/public?x={n}", {}),
        lambda n: (f"/public?limit={n}", {}),
        lambda n: ("/public?limit=" + "0" * n + "1", {}),
        lambda n: (f"/large/{n}?size=200000", {}),
        lambda n: ("/public", {"Host": f"host-{n}"}),
        lambda n: ("/varying", {"Accept": f"text/{n}"}),
        lambda n: (f"/small/victim?size={n}", {"X-Tenant": str(n)}),
    ],
)
@pytest.mark.parametrize("bounds", [{}, {"most_bytes": 1_000_000}], ids=str)
async def test_one_client_does_not_push_out_what_others_need(
    attack: Callable[[int], tuple[str, dict[str, str]]], bounds: dict[str, int]
) -> None:
    bench = Bench(**bounds)
    for client in ("192.0.2.1", "192.0.2.2"):
        for name in ("victim", "another"):
            await bench.get(f"/small/{name}", client=client)
        await bench.get("/public", client=client)
        await bench.get("/varying", {"Accept": "text/csv"}, client=client)
    for number in range(40):
        path, headers = attack(number)
        for _ in range(2):
            await bench.get(path, headers, client="192.0.2.66")
    assert await bench.is_kept("/small/victim")
    assert await bench.is_kept("/small/another")
    assert await bench.is_kept("/public")
    assert await bench.is_kept("/varying", {"Accept": "text/csv"})


async def test_one_route_does_not_push_out_another_s_answers_whoever_asks() -> None:
    bench = Bench()
    await bench.get("/small/victim")
    for number in range(40):
        await bench.get(f"/large/{number}", client=f"192.0.2.{number}")
        await bench.get(f"/large/{number}", client="192.0.2.250")
    assert await bench.is_kept("/small/victim")
    assert await bench.is_kept("/large/39")
    assert len(bench.layer.shelf) == 12


async def test_what_is_new_is_kept_even_if_all_is_full_of_what_was_shared() -> None:
    bench = Bench()
    for number in range(40):
        for client in ("192.0.2.1", "192.0.2.2"):
            await bench.get(f"/small/{number}", client=client)
    await bench.get("/small/new")
    assert await bench.is_kept("/small/new")


async def test_nothing_is_left_behind_of_what_was_pushed_out() -> None:
    bench = Bench(most_answers=3)
    for number in range(20):
        await bench.get(f"/small/{number % 7}", client=f"192.0.2.{number}")
        await bench.get(f"/large/{number}")
    shelf = bench.layer.shelf
    keys = {key for place in shelf._places.values() for key in place}
    kept = [part for route in shelf._routes.values() for part in (route.alone, route.shared)]
    assert keys == set(shelf._found) == {key for part in kept for key in part.by_key}
    assert len(keys) == 3
    for place in [*shelf._places]:
        shelf.forget(place)
    assert (len(shelf), shelf._routes, shelf._places) == (0, {}, {})
    assert [part.usage for part in kept] == [(0, 0)] * len(kept)


def test_what_the_house_gives_to_endpoints_is_no_part_of_an_answer() -> None:
    service = FastAPI()

    @service.get("/", dependencies=KEEP)
    async def root(a: DatabaseDep, b: DrainDep, c: ReadConnectionDep, d: ConnectionDep) -> None: ...

    served = Routing(service).find({"type": "http", "method": "GET", "path": "/", "headers": []})
    assert may_be_stale(served)


def test_what_is_no_route_of_fastapi_may_read_anything() -> None:
    assert reads_of(api().router.routes[0], None).anything
