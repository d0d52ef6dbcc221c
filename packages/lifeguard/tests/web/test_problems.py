"""Every error as a problem: what the contract promises of each, and nothing more."""

import asyncio
import re
from http import HTTPStatus
from typing import Any

import asyncpg
import pytest
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from lifeguard.database import CommitUnknown, DatabaseUnavailable, DeadlineExceeded
from lifeguard.pool import Pool, PoolClosing, PoolSaturated, PoolTimeout, PoolUnavailable
from lifeguard.testing.serving import Service
from lifeguard.web import ReadConnectionDep, problems
from pydantic import BaseModel, SecretStr
from starlette.exceptions import HTTPException

from packages.lifeguard.tests.web.conftest import Log

STATS = Pool().stats()
SECRET = "canary-hush-hush"

routes = APIRouter(prefix="/test")


class Login(BaseModel):
    name: str
    password: SecretStr
    devices: list[int] = []


@routes.post("/login")
async def login(login: Login) -> str:
    return login.name


@routes.get("/query")
async def query(request: Request, limit: int) -> int:
    return limit


@pytest.mark.parametrize(
    ("error", "name", "status", "retry_after"),
    [
        (PoolSaturated("full", STATS, reason="queue", retry_after=1.2), "pool-saturated", 503, "2"),
        (PoolTimeout("waited", STATS, stalled=False), "pool-timeout", 503, "1"),
        (PoolUnavailable("refused", STATS, retry_after=0.01), "database-unavailable", 503, "1"),
        (PoolClosing("draining", STATS), "shutting-down", 503, "1"),
        (DatabaseUnavailable("lost", retry_after=3), "database-unavailable", 503, "3"),
        (CommitUnknown("who knows"), "commit-unknown", 503, None),
        (TimeoutError(), "internal", 500, None),
        (DeadlineExceeded(), "statement-timeout", 504, None),
        (asyncpg.QueryCanceledError(), "statement-timeout", 504, None),
        (asyncpg.LockNotAvailableError(), "statement-timeout", 504, None),
        (asyncpg.SerializationError(), "database-unavailable", 503, "1"),
        (asyncpg.DeadlockDetectedError(), "database-unavailable", 503, "1"),
        (asyncpg.ConnectionDoesNotExistError(), "database-unavailable", 503, "1"),
        (asyncpg.AdminShutdownError(), "database-unavailable", 503, "1"),
        (asyncpg.TooManyConnectionsError(), "database-unavailable", 503, "1"),
        (asyncpg.DiskFullError(), "database-unavailable", 503, "1"),
        (asyncpg.ReadOnlySQLTransactionError(), "database-unavailable", 503, "1"),
        (asyncpg.InterfaceError("a bug of ours"), "internal", 500, None),
        (asyncpg.UndefinedTableError("a bug of ours"), "internal", 500, None),
        (RequestValidationError([]), "validation", 422, None),
        (HTTPException(404), "not-found", 404, None),
        (HTTPException(413), "payload-too-large", 413, None),
        (HTTPException(500, detail="inside"), "internal", 500, None),
        (HTTPException(415), "unsupported-media-type", 415, None),
        (problems.NotFound("That one."), "not-found", 404, None),
        (ZeroDivisionError("inside"), "internal", 500, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_has_its_name(error: Exception, name: str, status: int, retry_after: str | None) -> None:
    problem = problems.problem_of(error)
    assert (problem.type, problem.status) == (name, status)
    assert (problem.headers or {}).get("Retry-After") == retry_after
    assert "inside" not in str(problem.marshal())
    assert "a bug" not in str(problem.marshal())


@routes.get("/own-timeout")
async def own_timeout(connection: ReadConnectionDep) -> None:
    async with asyncio.timeout(0.01):
        await connection.fetchval("SELECT pg_sleep(5)")


@routes.get("/statement-timeout")
async def slow_statement(connection: ReadConnectionDep) -> None:
    await connection.fetchval("SELECT pg_sleep(5)", timeout=0.01)


class Value(BaseModel):
    expression: str
    value: Any


@routes.post("/value")
async def ask_with_value(value: Value, connection: ReadConnectionDep) -> None:
    await connection.fetchval(f"SELECT {value.expression}", value.value)


class TestAValueThatTheDatabaseRefuses:
    @pytest.mark.parametrize(
        ("expression", "value"),
        [
            ("$1::int", 2**31),
            ("$1::smallint", -40_000),
            ("$1::bigint", 2**63),
            ("$1::int[]", [1, 2**31]),
            ("$1::uuid", SECRET),
            ("$1::inet", "300.1.1.1"),
            ("$1::numeric", "abc"),
            ("$1::float4", 1e300),
            ("$1::text::int", SECRET),
            ("$1::int * 2147483647", 2),
            ("$1::jsonb", '{"a": "\\u0000"}'),
            ("$1::jsonb", "{"),
            ("'a' ~ $1", "("),
            ("'a' LIKE $1", "\\"),
            ("1 LIMIT $1", -1),
            ("1 OFFSET $1", -1),
            ("now() + make_interval(years => $1)", 2**31 - 1),
            ("$1::text::date", "2020-13-45"),
        ],
    )
    async def test_is_the_clients_to_mend_and_not_repeated(
        self, serving: Service, expression: str, value: object
    ) -> None:
        answer = await serving.client.post("/test/value", json={"expression": expression, "value": value})
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")
        assert SECRET not in answer.text

    @pytest.mark.parametrize(
        ("expression", "value"),
        [
            ("$1::text", 5),
            ("$1::int", "5"),
            ("$1::int[]", ["5"]),
            ("$1::date", "2020-01-01"),
            ("1 / $1::int", 0),
            ("now() AT TIME ZONE $1", "nowhere"),
        ],
    )
    async def test_of_another_type_or_use_is_a_mistake_of_ours_and_logged_as_one(
        self, serving: Service, log: Log, expression: str, value: object
    ) -> None:
        answer = await serving.client.post("/test/value", json={"expression": expression, "value": value})
        assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal")
        assert [line["event"] for line in log()].count("unforeseen_error") == 1


class TestWhoseTimeItWas:
    async def test_an_endpoints_own_timeout_is_not_the_databases(self, serving: Service) -> None:
        answer = await serving.client.get("/test/own-timeout")
        assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal")

    @pytest.mark.parametrize("headers", [{}, {"X-Request-Timeout": "3"}])
    async def test_a_statements_timeout_is(self, serving: Service, headers: dict[str, str]) -> None:
        answer = await serving.client.get("/test/statement-timeout", headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (504, "/problems/statement-timeout")


class TestHTTPExceptions:
    """What an endpoint says with FastAPI's own exception."""

    @pytest.mark.parametrize("status", [400, 401, 404, 409, 418, 422, 451, 460, 499, 503, 520, 599])
    def test_keep_status_detail_and_headers(self, status: int) -> None:
        error = HTTPException(status, "Not before noon.", headers={"X-Until": "12:00"})
        problem = problems.problem_of(error)
        assert (problem.status, problem.detail) == (status, "Not before noon.")
        assert (problem.headers or {})["X-Until"] == "12:00"

    @pytest.mark.parametrize("status", [404, 409, 460])
    def test_a_dict_becomes_members(self, status: int) -> None:
        detail = {"detail": "Not before noon.", "until": 12, "status": 200, "type": "x", "headers": 1}
        told = problems.problem_of(HTTPException(status, detail)).marshal()  # type: ignore[arg-type]
        assert (told["detail"], told["until"], told["status"]) == ("Not before noon.", 12, status)
        assert told["type"] != "x"
        assert "headers" not in told

    def test_a_list_becomes_errors(self) -> None:
        told = problems.problem_of(HTTPException(422, ["a", "b"])).marshal()  # type: ignore[arg-type]
        assert told["errors"] == ["a", "b"]

    @pytest.mark.parametrize("status", [*HTTPStatus, 460, 599])
    def test_are_named_by_a_type_that_is_a_uri(self, status: int) -> None:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", problems.problem_of(HTTPException(status)).type)

    def test_the_phrase_alone_is_no_detail(self) -> None:
        assert problems.problem_of(HTTPException(404)).detail is None


class TestValidation:
    async def test_points_at_every_value_and_repeats_none(self, serving: Service) -> None:
        body = {"name": [SECRET], "password": {"is": SECRET}, "devices": [1, SECRET]}
        answer = await serving.client.post("/test/login", json=body)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")
        pointers = [(fault["in"], fault["pointer"]) for fault in answer.json()["errors"]]
        assert pointers == [("body", "#/name"), ("body", "#/password"), ("body", "#/devices/1")]
        assert SECRET not in answer.text

    async def test_points_at_a_parameter(self, serving: Service) -> None:
        answer = await serving.client.get("/test/query", params={"limit": SECRET})
        (fault,) = answer.json()["errors"]
        assert (fault["in"], fault["pointer"]) == ("query", "#/limit")
        assert SECRET not in answer.text

    async def test_of_what_is_no_json(self, serving: Service) -> None:
        headers = {"Content-Type": "application/json"}
        answer = await serving.client.post("/test/login", content=f'{{"password": "{SECRET}', headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")
        assert SECRET not in answer.text

    @pytest.mark.parametrize(
        ("body", "detail"),
        [
            ('{"name": bad}', "JSON decode error at character 9"),
            ("", "Field required"),
            ("3", "Input should be a valid dictionary or object to extract fields from"),
        ],
    )
    async def test_of_a_body_as_a_whole_points_at_the_whole(
        self, serving: Service, body: str, detail: str
    ) -> None:
        headers = {"Content-Type": "application/json"}
        answer = await serving.client.post("/test/login", content=body, headers=headers)
        assert answer.json()["errors"] == [{"detail": detail, "in": "body", "pointer": "#"}]

    @pytest.mark.parametrize("media_type", [None, "application/x-www-form-urlencoded", "text/plain"])
    async def test_of_a_body_that_is_not_said_to_be_json_names_the_header(
        self, serving: Service, media_type: str | None
    ) -> None:
        """`curl -d` says that it is a form."""
        headers = {"Content-Type": media_type} if media_type else {}
        answer = await serving.client.post("/test/login", content='{"name": "a"}', headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")
        assert "Content-Type: application/json" in answer.json()["detail"]

    async def test_of_a_body_that_is_json_does_not(self, serving: Service) -> None:
        answer = await serving.client.post("/test/login", json={})
        assert "Content-Type" not in answer.json()["detail"]

    async def test_of_what_is_no_text(self, serving: Service) -> None:
        headers = {"Content-Type": "application/json"}
        answer = await serving.client.post("/test/login", content=b'"\xff"', headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")

    async def test_pointers_are_escaped_as_rfc_6901_says(self) -> None:
        error = RequestValidationError([{"loc": ("body", "a/b~c"), "msg": "no", "type": "x"}])
        (fault,) = problems.problem_of(error).extras["errors"]
        assert fault["pointer"] == "#/a~1b~0c"


class TestRouting:
    async def test_nothing_there(self, serving: Service) -> None:
        answer = await serving.client.get("/nowhere")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")

    async def test_another_method(self, serving: Service) -> None:
        answer = await serving.client.delete("/pool")
        assert (answer.status_code, answer.json()["type"]) == (405, "/problems/method-not-allowed")
        assert answer.headers["allow"] == "GET, HEAD"


@pytest.fixture(scope="module")
async def schema(serving: Service) -> dict[str, Any]:
    schema: dict[str, Any] = (await serving.client.get("/openapi.json")).json()
    return schema


class TestOpenApi:
    async def test_documents_every_error_as_a_problem(self, schema: dict[str, Any]) -> None:
        operations = [operation for path in schema["paths"].values() for operation in path.values()]
        errors = [
            (status, answer["content"])
            for operation in operations
            for status, answer in operation["responses"].items()
            if status >= "4" and operation.get("tags") != ["probes"]
        ]
        assert {status for status, _ in errors} >= {"404", "413", "422", "500", "503", "504"}
        for _, content in errors:
            assert list(content) == ["application/problem+json"]

    async def test_says_of_every_operation_what_any_request_may_be_answered(
        self, schema: dict[str, Any]
    ) -> None:
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                assert operation["responses"].keys() >= {"400", "413", "500"}, path

    async def test_is_the_same_each_time(self, serving: Service, schema: dict[str, Any]) -> None:
        assert (await serving.client.get("/openapi.json")).json() == schema

    async def test_knows_fastapis_own_errors_no_more(self, schema: dict[str, Any]) -> None:
        assert "ValidationError" not in str(schema)
        assert {"type", "title", "status", "request_id"} == set(
            schema["components"]["schemas"]["Problem"]["required"]
        )

    async def test_every_reference_leads_somewhere(self, schema: dict[str, Any]) -> None:
        def references(node: object) -> set[str]:
            if isinstance(node, dict):
                here = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
                return here.union(*(references(child) for child in node.values()))
            if isinstance(node, list):
                return set().union(*(references(child) for child in node))
            return set()

        known = {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}
        assert references(schema) <= known
