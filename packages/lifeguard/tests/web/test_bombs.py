"""One request, made to cost or to be told as much as it can: bounded, whatever it contains."""

import json
import tracemalloc
from collections.abc import Iterable
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from fastapi import APIRouter, Body, Cookie, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from lifeguard.settings import LARGEST_BODY
from lifeguard.testing.serving import Service
from lifeguard.web import PlainInt, ReadConnectionDep, max_body, problems, request_head
from lifeguard.web.fitting import fitted
from lifeguard.web.strict_json import LARGEST_DOCUMENT, MOST_CONTAINERS, MOST_DEPTH, MOST_VALUES
from lifeguard.web.validation import LONGEST_WORDS, MOST_LISTED
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

from packages.lifeguard.tests.checkout import ROOT
from packages.lifeguard.tests.sample.settings import Settings

SETTINGS = {"log_level": "critical"}
MOST_MEMORY = 16 * 2**20
LARGEST_PROBLEM = 64 * 1024
DEFAULT = 65_536
SECRET = "canary-hush-hush"

routes = APIRouter(prefix="/test")

_FIELDS: Any = {f"field{n}": (int, ...) for n in range(20)}
Wide: Any = create_model("Wide", **_FIELDS)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    name: str = ""
    number: int = 0


class Parrot(BaseModel):
    words: str

    @field_validator("words")
    @classmethod
    def repeat(cls, words: str) -> str:
        raise ValueError(f"{words} is wrong")


@routes.get("/numbers/{number}")
async def numbers(
    connection: ReadConnectionDep,
    number: int,
    *,
    of: int = 0,
    all: Annotated[list[int] | None, Query()] = None,  # noqa: A002 - the parameter's name
    plain: PlainInt = 0,
    large: Annotated[int, Query(le=10**30)] = 0,
) -> int:
    kept: int = await connection.fetchval("SELECT $1::int8", number)
    return kept


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


@routes.post("/strict")
async def strict(body: Strict) -> None: ...


@routes.post("/wide")
async def wide(body: list[Wide]) -> None: ...


@routes.post("/union")
async def union(body: list[int | bool | float | dict[str, int] | Strict]) -> None: ...


@routes.post("/parrot")
async def parrot(body: Parrot) -> None: ...


@routes.post("/pet")
async def pet(body: Annotated[Cat | Dog, Field(discriminator="kind")]) -> None: ...


@routes.post("/large", dependencies=[max_body(LARGEST_DOCUMENT)])
async def large(body: Annotated[Any, Body()]) -> None: ...


@routes.post("/own")
async def own(request: Request) -> None:
    await request.json()


@routes.post("/said")
async def said(request: Request) -> None:
    text = (await request.body()).decode("latin-1")
    raise HTTPException(400, {"detail": text, "errors": [text] * 100, text: 1, "last": 1})


@routes.get("/parameters")
async def parameters(
    query: Annotated[Strict, Query()],
    header: Annotated[Strict, Header()],
    cookie: Annotated[Strict, Cookie()],
) -> None: ...


@routes.get("/plain")
async def plain(limit: PlainInt = 0) -> int:
    return limit


@routes.post("/text")
async def text(body: Annotated[str, Body()], connection: ReadConnectionDep) -> str:
    kept: str = await connection.fetchval("SELECT $1::text", body)
    return kept


def array(item: str, number: int) -> str:
    return f"[{','.join([item] * number)}]"


def members(number: int) -> str:
    return json.dumps({f"{n:x}": 1 for n in range(number)}, separators=(",", ":"))


def nested_in(value: object, depth: int) -> object:
    for _ in range(depth):
        value = [value]
    return value


BOMBS = {
    "unknown keys": ("strict", members(7000)),
    "keys of 60 KB": ("strict", json.dumps({"\x01" * 10_000: 1})),
    "100 long keys": ("strict", json.dumps({f"{n}{chr(1) * 95}": 1 for n in range(100)})),
    "empty objects": ("wide", array("{}", MOST_CONTAINERS - 1)),
    "too many objects": ("wide", array("{}", 20_000)),
    "what fits no type": ("union", array('"x"', MOST_VALUES - 1)),
    "numbers": ("union", array("1", 32_000)),
    "what a validator repeats": ("parrot", json.dumps({"words": "\x01" * 10_000})),
    "a long tag": ("pet", json.dumps({"kind": "x" * 60_000})),
    "depth": ("large", "[" * 100_000),
    "10,000 digits": ("large", "1" * 10_000),
    "what an exception repeats": ("said", "\x01" * 60_000),
    "to an endpoint that reads itself": ("own", array("{}", 20_000)),
    "a whole megabyte": ("large", array('"ab"', LARGEST_DOCUMENT // 5 - 1)),
}


async def posted(service: Service, path: str, body: str) -> Any:
    headers = {"Content-Type": "application/json"}
    return await service.client.post(f"/test/{path}", content=body, headers=headers)


@pytest.mark.parametrize(("path", "body"), BOMBS.values(), ids=BOMBS)
async def test_is_answered_in_few_bytes_and_with_few_errors(serving: Service, path: str, body: str) -> None:
    answer = await posted(serving, path, body)
    told = answer.json()
    assert (answer.status_code, told["type"]) in {
        (422, "/problems/validation"),
        (400, "/problems/bad-request"),
    }
    assert len(answer.content) <= LARGEST_PROBLEM
    assert len(told["errors"]) <= MOST_LISTED
    assert told["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(("path", "body"), BOMBS.values(), ids=BOMBS)
async def test_takes_little_memory(serving: Service, path: str, body: str) -> None:
    tracemalloc.start()
    try:
        await posted(serving, path, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY


class TestErrors:
    async def test_are_listed_up_to_a_hundred_and_the_rest_is_counted(self, serving: Service) -> None:
        for number in (99, 100, 101, 7000):
            told = (await posted(serving, "strict", members(number))).json()
            assert len(told["errors"]) == min(number, 100)
            listed = ", of which 100 are listed" if number > 100 else ""
            assert told["detail"] == f"{number} errors in the request{listed}."

    async def test_of_several_places_are_counted_together(self, serving: Service) -> None:
        query = {f"q{n}": "1" for n in range(150)}
        headers = {"Cookie": "; ".join(f"c{n}=1" for n in range(150))}
        told = (await serving.client.get("/test/parameters", params=query, headers=headers)).json()
        number = int(told["detail"].split()[0])
        assert number >= 300  # and the headers that every client sends
        assert told["detail"] == f"{number} errors in the request, of which 100 are listed."

    async def test_that_no_hundred_of_can_be_made_are_counted_all_the_same(self, serving: Service) -> None:
        told = (await posted(serving, "wide", array("{}", MOST_CONTAINERS - 1))).json()
        number = 20 * (MOST_CONTAINERS - 1)
        assert told["detail"] == f"{number} errors in the request, of which none are listed."

    async def test_repeat_no_tag(self, serving: Service) -> None:
        answer = await posted(serving, "pet", json.dumps({"kind": SECRET}))
        (fault,) = answer.json()["errors"]
        assert fault["detail"] == "Input should have a tag among 'cat', 'dog'"
        assert SECRET not in answer.text

    async def test_of_json_name_the_place_and_repeat_nothing(self, serving: Service) -> None:
        for path in ("strict", "own"):
            answer = await posted(serving, path, f'{{"name": {{"{SECRET}": 1}}, "number": 1, "number": 2}}')
            assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")
            (fault,) = answer.json()["errors"]
            assert (fault["in"], fault["pointer"]) == ("body", "#/number")
            assert SECRET not in answer.text

    async def test_without_a_type_or_a_place_are_told(self) -> None:
        told = problems.problem_of(RequestValidationError([{"msg": "no"}, {"loc": (), "msg": "no"}]))
        assert told.extras["errors"] == [{"detail": "no", "in": "body", "pointer": "#"}] * 2


class TestHeads:
    @pytest.mark.parametrize(
        ("query", "headers", "status"),
        [
            ("&".join(f"k{n}" for n in range(request_head.MOST_PARAMETERS)), [], 422),
            ("&".join(f"k{n}" for n in range(request_head.MOST_PARAMETERS + 1)), [], 400),
            ("&" * 8_000, [], 400),
            ("", [(f"x{n}", "") for n in range(request_head.MOST_HEADERS)], 431),
            ("", [("Cookie", ";".join(f"c{n}=1" for n in range(request_head.MOST_COOKIES - 10)))], 422),
            ("", [("Cookie", ";".join(f"c{n}=1" for n in range(request_head.MOST_COOKIES + 1)))], 431),
            ("", [("Cookie", f"a{n}=1; b=2") for n in range(request_head.MOST_COOKIES // 2 + 1)], 431),
            ("", [("Cookie", 'a="' + "\\" * 20_000 + '"')], 431),
            ("", [("Cookie", 'a="' + "\\101" * 5_000 + '"')], 431),
        ],
        ids=lambda value: None if isinstance(value, int) else f"{len(value)}",
    )
    async def test_have_a_number_of_parts(
        self, serving: Service, query: str, headers: Iterable[tuple[str, str]], status: int
    ) -> None:
        answer = await serving.client.get(f"/test/parameters?{query}", headers=list(headers))
        assert answer.status_code == status
        assert len(answer.content) <= LARGEST_PROBLEM
        assert answer.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize("name", sorted(name.decode() for name in request_head.SINGLE))
    @pytest.mark.parametrize("second", ["1", "2"], ids=["same", "other"])
    async def test_say_once_what_readers_would_take_the_first_or_the_last_of(
        self, serving: Service, name: str, second: str
    ) -> None:
        answer = await serving.client.get(
            "/test/plain?limit=1", headers=[(name, "1"), (name.title(), second)]
        )
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")

    @pytest.mark.parametrize(
        "number",
        ["1_0", "%201", "1%20", "%2B1", "+1", "01", "-0", "1.0", "1e1", "%D9%A1%D9%A2", "9" * 8_000, ""],
    )
    async def test_spell_a_plain_number_in_one_way(self, serving: Service, number: str) -> None:
        answer = await serving.client.get(f"/test/plain?limit={number}")
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/limit")

    @pytest.mark.parametrize("number", ["0", "10", "-7", str(2**63 - 1)])
    async def test_may_have_a_plain_number(self, serving: Service, number: str) -> None:
        assert (await serving.client.get(f"/test/plain?limit={number}")).text == number

    @pytest.mark.parametrize(
        ("path", "pointer"),
        [
            ("{}", "#/number"),
            ("1?of={}", "#/of"),
            ("1?all=7&all={}&all=8", "#/all/1"),
            ("1?plain={}", "#/plain"),
        ],
    )
    @pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**18 * 9_999])
    async def test_have_numbers_that_the_database_holds(
        self, serving: Service, path: str, pointer: str, number: int
    ) -> None:
        answer = await serving.client.get(f"/test/numbers/{path.format(number)}")
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")
        (error,) = answer.json()["errors"]
        assert error["pointer"] == pointer
        assert str(number) not in error["detail"].replace(str(2**63 - 1), "").replace(str(-(2**63)), "")

    @pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0])
    async def test_may_have_the_largest_and_the_smallest(self, serving: Service, number: int) -> None:
        answer = await serving.client.get(f"/test/numbers/{number}?of={number}&all={number}&plain={number}")
        assert (answer.status_code, answer.json()) == (200, number)

    async def test_may_have_larger_ones_where_the_route_says_so(self, serving: Service) -> None:
        answer = await serving.client.get(f"/test/numbers/1?large={10**20}")
        assert answer.status_code == 200


async def test_a_text_that_the_database_does_not_keep_is_the_clients_fault(serving: Service) -> None:
    assert (await posted(serving, "text", r'"a\u0001b"')).status_code == 200
    answer = await posted(serving, "text", r'"a\u0000b"')
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")


def test_the_limits_are_those_that_are_documented() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    for limit in (
        f"{request_head.MOST_PARAMETERS} parameters of a query, {request_head.MOST_HEADERS} headers,"
        f" {request_head.MOST_COOKIES} cookies",
        f"{LARGEST_DOCUMENT // 2**20} MiB",
        f"{MOST_VALUES} values, {MOST_CONTAINERS} objects and arrays, {MOST_DEPTH} deep",
        f"{MOST_LISTED} errors, {LARGEST_PROBLEM // 1024} KiB",
    ):
        assert f"| {limit} |" in text
    assert f"{LARGEST_BODY // 2**20} MiB are the most" in text
    assert f"end after {LONGEST_WORDS} characters" in text
    assert Settings.model_fields["max_body_bytes"].default == DEFAULT


class TestFitting:
    @pytest.mark.parametrize(
        "content",
        [
            {"errors": ["x"] * 1_000_000},
            {"errors": [{"detail": "\x01" * 10**6}] * 1000},
            {f"{n}": n for n in range(100_000)},
            {"a" * 10**6: {"b" * 10**6: "c" * 10**6}},
            {"errors": [[[["é" * 5000] * 10] * 10] * 10] * 10},
            {"errors": nested_in(["x" * 10**6] * 10, 40), "detail": b"x" * 10**7},
            {"number": 10**10_000, "errors": [10**10_000] * 9000},
        ],
        ids=["items", "long texts", "members", "long names", "nested", "deep", "numbers"],
    )
    def test_makes_any_content_an_answer_of_few_bytes(self, content: dict[str, object]) -> None:
        told = json.dumps(fitted({"type": "x", **content}), ensure_ascii=False, allow_nan=False).encode()
        assert len(told) < LARGEST_PROBLEM
        assert json.loads(told)["type"] == "x"

    def test_finds_a_word_for_what_json_has_none_for(self) -> None:
        endless: list[object] = []
        endless.append(endless)
        odd = {"a": float("nan"), "b": date(2026, 1, 2), "c": ValueError("no"), "d": "\ud800", "e": endless}
        told = fitted({**odd, "f": (1, {2: None})})
        assert json.loads(json.dumps(told, allow_nan=False).encode())["b"] == "2026-01-02"
        assert (told["a"], told["c"], told["d"], told["f"]) == ("nan", "no", "?", [1, {"2": None}])

    def test_leaves_what_fits_as_it_is(self) -> None:
        content = {"a": [1, -2.5, True, None, 'é\n"\\'], "b": {"c": {"d": []}}}
        assert fitted(content) == content
