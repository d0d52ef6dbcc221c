"""Routes of many kinds, for plans to answer as FastAPI does."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
)
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import APIKeyHeader, HTTPBearer, SecurityScopes
from lifeguard.web import PlainInt, lane, max_body, pages
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

router = APIRouter(prefix="/r")
late = APIRouter()
"""Routes that are added when the service has begun."""


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    value: int = 3
    when: date | None = None


class Thing(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=20)]
    number: Annotated[int, Field(alias="No")] = 7
    inner: Inner = Inner()
    tags: list[str] = []
    secret: str = "hidden"
    maybe: float | None = None

    @field_validator("name")
    @classmethod
    def _no_digits(cls, name: str) -> str:
        if name.isdigit():
            raise ValueError("a name is no number")
        return name


class Other(BaseModel):
    kind: Literal["other"]
    size: int


class Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    limit: int = Field(10, ge=1, le=100)
    tags: list[str] = []
    order_by: Literal["id", "name"] = "id"


class HeaderModel(BaseModel):
    x_token: str
    x_list: list[int] = []


class Teapot(Exception):
    pass


class Quiet(Exception):
    """For which there is no handler."""


@router.get("/plain")
async def plain() -> dict[str, int]:
    return {"a": 1}


@router.get("/path/{number}/{text}/{color}")
async def of_path(number: int, text: Annotated[str, Path(max_length=5)], color: Color) -> list[Any]:
    return [number, text, color]


@router.get("/plain-int/{number}")
async def plain_int(number: pages.PathId, uuid: UUID | None = None, n: PlainInt = 2) -> list[Any]:
    return [number, uuid, n]


@router.get("/file/{rest:path}")
async def rest_of_path(rest: str) -> str:
    return rest


@router.get("/convertor/{n:int}/{f:float}")
async def converted(n: int, f: float) -> list[float]:
    return [n, f]


@router.get("/query")
async def of_query(  # noqa: PLR0917 - FastAPI passes them by name
    limit: pages.Limit = 20,
    cursor: pages.Cursor = None,
    big: int = 0,
    flag: bool = False,
    ratio: Annotated[float, Query(gt=0)] = 1.5,
    at: datetime | None = None,
    named: Annotated[str, Query(alias="na-me")] = "ü",
) -> dict[str, Any]:
    return {"all": [limit, cursor, big, flag, ratio, at, named]}


@router.get("/query/required")
async def required(q: str, n: Annotated[int, Query(default_factory=lambda: 5)]) -> list[Any]:
    return [q, n]


@router.get("/query/list")
async def of_list(
    q: Annotated[list[int], Query(default_factory=lambda: [1])],
    s: Annotated[set[str] | None, Query()] = None,
    one: str = "x",
) -> list[Any]:
    return [q, sorted(s or ()), one]


@router.get("/query/model")
async def of_model(filters: Annotated[Filters, Query()]) -> Filters:
    return filters


@router.get("/headers")
async def of_headers(
    x_one: Annotated[str | None, Header()] = None,
    x_many: Annotated[list[str] | None, Header()] = None,
    number: Annotated[int, Header(alias="X-Number", ge=0)] = 3,
) -> list[Any]:
    return [x_one, x_many, number]


@router.get("/headers/single")
async def of_single_headers(
    x_one: Annotated[str, Header(pattern="^[a-z]*$")], x_default: Annotated[str, Header()] = "d"
) -> list[Any]:
    return [x_one, x_default]


@router.get("/headers/model")
async def of_header_model(headers: Annotated[HeaderModel, Header()]) -> HeaderModel:
    return headers


@router.get("/cookies")
async def of_cookies(session: Annotated[str | None, Cookie()] = None, n: Annotated[int, Cookie()] = 1) -> Any:
    return [session, n]


@router.post("/body", status_code=201)
async def of_body(thing: Thing) -> Thing:
    return thing


@router.post("/body/optional")
async def of_optional(thing: Thing | None = None) -> Thing | None:
    return thing


@router.post("/body/union")
async def of_union(thing: Annotated[Thing | Other, Body()]) -> Thing | Other:
    return thing


@router.put("/body/two/{n}")
async def of_two(n: int, thing: Thing, other: Other, importance: Annotated[int, Body(gt=0)] = 1) -> list[Any]:
    return [n, thing, other, importance]


@router.post("/body/embedded")
async def embedded(thing: Annotated[Thing, Body(embed=True)]) -> str:
    return thing.name


@router.post("/body/any")
async def of_any(document: Annotated[Any, Body()]) -> Any:
    return document


@router.post("/body/bytes")
async def of_bytes(document: Annotated[list[int], Body(media_type="application/x-numbers")]) -> int:
    return len(document)


@router.post("/small", dependencies=[max_body(60), lane("small")])
async def small(thing: Thing) -> str:
    return thing.name


@router.get("/response/{status}", status_code=202)
async def of_response(status: int, response: Response, empty: bool = False) -> Any:
    response.headers["X-Said"] = "1"
    response.headers.append("X-Said", "2")
    response.set_cookie("c", "ö" if status == 1 else "v")
    if status > 1:
        response.status_code = status
    return None if empty else {"status": status}


@router.get("/no-content", status_code=204)
async def no_content() -> None:
    return None


@router.get("/reset-content", status_code=205)
async def reset_content(response: Response) -> None:
    response.headers["X-Reset"] = "yes"


@router.get(
    "/excluded", response_model=Thing, response_model_exclude={"secret"}, response_model_by_alias=False
)
async def excluded(maybe: float | None = None) -> Any:
    return {"name": "n", "No": 4, "secret": "s", "maybe": maybe}


@router.get("/unset", response_model=Thing, response_model_exclude_unset=True)
async def unset() -> Any:
    return Thing(name="n", tags=["é", "\u2028"])


@router.get("/defaults", response_model=list[Thing], response_model_exclude_defaults=True)
async def defaults() -> Any:
    return [Thing(name="a"), Thing(name="b", secret="x")]


@router.get(
    "/none", response_model=Thing, response_model_exclude_none=True, response_model_include={"name", "maybe"}
)
async def without_none() -> Any:
    return Thing(name="n")


@router.get("/untyped")
async def untyped(q: str = "é"):  # type: ignore[no-untyped-def]
    return {"q": q, "at": datetime(2026, 1, 2, tzinfo=UTC), "set": {1}, "color": Color.RED}


@router.get("/nan")
async def nan(value: float = 1.0) -> Any:
    return value


@router.get("/nan/untyped", response_model=None)
async def untyped_nan(value: float = 1.0) -> Any:
    return value


@router.get("/wrong")
async def wrong(n: int = 0) -> Thing:
    return {"name": "n" * n}  # type: ignore[return-value]  # which is what it tries


@router.get("/raises/{what}")
async def raises(what: str) -> str:
    match what:
        case "http":
            raise HTTPException(418, {"detail": "no coffee", "more": 1}, headers={"X-Tea": "yes"})
        case "teapot":
            raise Teapot(what)
        case "quiet":
            raise Quiet(what)
        case "304":
            raise HTTPException(304)
        case "key":
            raise KeyError(what)
    return what


@router.get("/returns/{what}")
async def returns(what: str) -> Response:
    match what:
        case "json":
            return JSONResponse({"a": 1}, 203, headers={"x-a": "b"})
        case "stream":
            return StreamingResponse(iter([b"a", b"b"]), media_type="text/x")
        case "empty":
            return Response(status_code=204)
    return PlainTextResponse(what)


@router.get("/html", response_class=PlainTextResponse)
async def html() -> str:
    return "<b>"


@router.get("/sync")
def in_a_thread(n: int = 1) -> int:
    return n


@router.get("/tasks")
async def tasks(background: BackgroundTasks) -> str:
    background.add_task(lambda: None)
    return "later"


async def number_of(request: Request, response: Response, q: Annotated[int, Query(ge=0)] = 1) -> int:
    response.headers["X-Dependency"] = request.url.path.rpartition("/")[2]
    if q == 13:
        raise HTTPException(403, "not thirteen")
    return q


async def doubled(number: Annotated[int, Depends(number_of)], x_add: Annotated[int, Header()] = 0) -> int:
    return number * 2 + x_add


async def uncached(number: Annotated[int, Depends(number_of, use_cache=False)]) -> int:
    return -number


async def simple(q: int = 1) -> int:
    return q


async def built_on(one: Annotated[int, Depends(simple)], two: Annotated[int, Depends(simple)]) -> list[int]:
    return [one, two]


async def scoped(scopes: SecurityScopes, key: Annotated[str, Depends(APIKeyHeader(name="x-key"))]) -> str:
    return f"{scopes.scope_str} {key}"


async def yielding(q: int = 1) -> Any:
    yield q


@router.get("/depends", dependencies=[Depends(simple)])
async def depends(built: Annotated[list[int], Depends(built_on)], response: Response, n: int = 0) -> Any:
    response.headers["X-N"] = str(n)
    return built


@router.get("/depends/request")
async def depends_on_request(
    a: Annotated[int, Depends(number_of)], b: Annotated[int, Depends(uncached)], request: Request
) -> Any:
    return [a, b, request.method, sorted(request.query_params), request.path_params]


@router.get("/depends/last/{n}")
async def depends_on_request_last(n: int, a: Annotated[int, Depends(number_of)]) -> Any:
    return [n, a]


@router.get("/depends/first")
async def depends_on_request_only(a: Annotated[int, Depends(number_of)], request: Request) -> Any:
    return [a, request.scope["route"].path, request.scope["endpoint"].__name__, request.scope["path_params"]]


@router.get("/depends/deep")
async def depends_deeply(a: Annotated[int, Depends(doubled)], b: Annotated[int, Depends(number_of)]) -> Any:
    return [a, b]


@router.get("/depends/security")
async def secured(
    who: Annotated[str, Security(scoped, scopes=["a", "b"])],
    bearer: Annotated[Any, Depends(HTTPBearer(auto_error=False))],
    n: int = 1,
) -> Any:
    return [who, bearer and bearer.credentials, n]


@router.get("/depends/yield")
async def depends_on_generator(a: Annotated[int, Depends(yielding)]) -> int:
    return a


@router.post("/request/{n}")
async def takes_request(n: int, thing: Thing, request: Request) -> Any:
    body = await request.body()
    return [
        n,
        thing.name,
        len(body),
        (await request.json())["name"],
        request.url.path,
        str(request.query_params),
    ]


def _even(number: int) -> int:
    if number == 99:
        raise RuntimeError("a validator that fails")
    if number % 2:
        raise ValueError("must be even")
    return number


@router.get("/validator/{n}")
async def validated(
    n: Annotated[int, AfterValidator(_even)], m: Annotated[int, AfterValidator(_even)] = 3
) -> int:
    return n + m


@router.get("/shadowed/{name}")
async def shadowing(name: str) -> str:
    return f"the first: {name}"


@router.get("/shadowed/static")
async def shadowed() -> str:
    return "never"


@late.get("/late/{n}")
async def lately(n: int) -> int:
    return n


mounted = FastAPI(openapi_url=None)


@mounted.get("/inside/{n}")
async def inside(n: int) -> int:
    return n


async def teapot(request: Request, _: Exception) -> Response:
    return PlainTextResponse(f"short and stout: {request.url.path} {len(await request.body())}", 418)
