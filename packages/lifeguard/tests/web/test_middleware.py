"""What happens around every request, seen by its client and in the log."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from lifeguard.testing.serving import Service
from lifeguard.web import ReadConnectionDep, TransactionDep

from packages.lifeguard.tests.stopwatch import Stopwatch
from packages.lifeguard.tests.web.conftest import Log

LIMIT = 1000
SETTINGS = {"max_body_bytes": LIMIT, "pool_max_size": 1, "log_level": "info"}
SECRET = "canary-hush-hush"

routes = APIRouter(prefix="/test")


@routes.post("/length")
async def length(request: Request) -> int:
    return len(await request.body())


@routes.get("/boom")
async def boom() -> None:
    raise RuntimeError(f"nobody foresaw {SECRET}")


@routes.get("/broken-off")
async def broken_off() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        yield "the first part"
        raise RuntimeError("and no second one")

    return StreamingResponse(parts())


@routes.get("/say")
async def say(what: str) -> Response:
    return Response(headers={"X-Said": what})


@routes.get("/tag")
async def tag(transaction: TransactionDep) -> str:
    name: str = await transaction.fetchval("SELECT current_setting('application_name')")
    return name


@routes.get("/tagged/{name}")
async def tagged(name: str) -> str:
    return name


@routes.get("/sleep/{seconds}")
async def sleep(seconds: float, connection: ReadConnectionDep) -> None:
    await connection.fetchval("SELECT pg_sleep($1)", seconds)


class TestRequestId:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/healthz", 200),
            ("GET", "/nowhere", 404),
            ("DELETE", "/healthz", 405),
            ("POST", "/items", 422),
            ("GET", "/test/boom", 500),
        ],
    )
    async def test_is_on_every_answer(self, serving: Service, method: str, path: str, status: int) -> None:
        answer = await serving.client.request(method, path, json={} if method == "POST" else None)
        assert answer.status_code == status
        assert len(answer.headers["x-request-id"]) == 32
        if status >= 400:
            assert answer.json()["request_id"] == answer.headers["x-request-id"]

    async def test_of_the_client_is_kept(self, serving: Service) -> None:
        for own in ("a", "Z-9._", "x" * 128):
            answer = await serving.client.get("/healthz", headers={"X-Request-ID": own})
            assert answer.headers["x-request-id"] == own

    async def test_that_could_do_harm_is_replaced(self, serving: Service) -> None:
        for own in (b"", b"a b", b"x" * 129, "ü".encode(), b"';--", b'"}'):
            answer = await serving.client.get("/healthz", headers={b"X-Request-ID": own})
            assert len(answer.headers["x-request-id"]) == 32

    async def test_tags_the_transaction_at_the_server(self, serving: Service) -> None:
        answer = await serving.client.get("/test/tag", headers={"X-Request-ID": "order-17"})
        assert answer.json() == "ledger:order-17"


class TestDeadline:
    async def test_ends_the_statement(self, serving: Service) -> None:
        async with Stopwatch() as watch:
            answer = await serving.client.get("/test/sleep/5", headers={"X-Request-Timeout": "0.2"})
            assert (answer.status_code, answer.json()["type"]) == (504, "/problems/statement-timeout")
        assert watch.seconds < 0.45

    async def test_ends_the_wait_for_a_connection(self, serving: Service) -> None:
        async with serving.state["database"].connection():  # the only one
            answer = await serving.client.get("/test/sleep/0", headers={"X-Request-Timeout": "0.2"})
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/pool-timeout")
        assert int(answer.headers["retry-after"]) >= 1

    @pytest.mark.parametrize(
        "text",
        ["soon", "0", "-1", "nan", "inf", "", "1_0", "1e3", "+1", "0.001", "0.00999", "0x1", "9" * 400],
    )
    async def test_that_is_none_is_refused(self, serving: Service, text: str) -> None:
        answer = await serving.client.get("/items", headers={"X-Request-Timeout": text})
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")
        assert "X-Request-Timeout" in answer.json()["detail"]

    @pytest.mark.parametrize("text", ["1", "0.5", "2.", "007", "999999999"])
    async def test_in_plain_decimals_is_taken(self, serving: Service, text: str) -> None:
        answer = await serving.client.get("/items", headers={"X-Request-Timeout": text})
        assert answer.status_code == 200


class TestBody:
    async def test_up_to_the_limit_is_read(self, serving: Service) -> None:
        answer = await serving.client.post("/test/length", content=b"x" * LIMIT)
        assert answer.json() == LIMIT

    async def test_that_says_it_is_larger_is_refused_unread(self, serving: Service) -> None:
        answer = await serving.client.post("/test/length", content=b"x" * (LIMIT + 1))
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/payload-too-large")

    async def test_that_is_refused_unread_is_logged_and_counted_for_its_route(
        self, serving: Service, log: Log
    ) -> None:
        log()
        await serving.client.post("/test/length", content=b"x" * (LIMIT + 1))
        (line,) = log()
        assert (line["route"], line["status"]) == ("/test/length", 413)
        metrics = (await serving.client.get("/metrics")).text
        counted = [part for part in metrics.splitlines() if part.startswith("http_requests_total{")]
        assert [part for part in counted if '"/test/length"' in part and '"4xx"' in part]

    async def test_that_turns_out_larger_is_refused(self, serving: Service) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * (LIMIT // 2)

        answer = await serving.client.post("/test/length", content=chunks())
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/payload-too-large")

    async def test_in_chunks_up_to_the_limit_is_read(self, serving: Service) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(2):
                yield b"x" * (LIMIT // 2)

        assert (await serving.client.post("/test/length", content=chunks())).json() == LIMIT


class TestUnforeseenError:
    async def test_tells_the_client_nothing(self, serving: Service) -> None:
        answer = await serving.client.get("/test/boom", headers={"X-Request-ID": "r1"})
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {
            "type": "/problems/internal",
            "title": "Something went wrong on our side",
            "status": 500,
            "request_id": "r1",
        }

    async def test_tells_the_log_everything(self, serving: Service, log: Log) -> None:
        log()
        await serving.client.get("/test/boom", headers={"X-Request-ID": "r1"})
        unforeseen, request = log()
        assert (unforeseen["event"], unforeseen["request_id"]) == ("unforeseen_error", "r1")
        assert f"RuntimeError: nobody foresaw {SECRET}" in unforeseen["exception"]
        assert (request["event"], request["problem"]) == ("request", "internal")

    @pytest.mark.parametrize("what", ["a\r\nSet-Cookie: b=c", "a\n", "a\0b"])
    async def test_in_a_header_of_the_answer_is_answered(self, serving: Service, what: str) -> None:
        answer = await serving.client.get("/test/say", params={"what": what})
        assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal")
        assert not {"x-said", "set-cookie"} & set(answer.headers)

    async def test_in_mid_answer_breaks_the_connection(self, serving: Service, log: Log) -> None:
        with pytest.raises(httpx.RemoteProtocolError):  # and not: takes half an answer for a whole
            await serving.client.get("/test/broken-off")
        assert "answer_broken_off" in {line["event"] for line in log()}


class TestNotes:
    async def test_a_request_is_one_line_without_its_query(self, serving: Service, log: Log) -> None:
        log()
        await serving.client.get(f"/items/77?token={SECRET}", headers={"X-Request-ID": "r1"})
        (line,) = log()
        assert line.pop("duration_ms") > 0
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "event": "request",
            "method": "GET",
            "path": "/items/77",
            "route": "/items/{item_id}",
            "status": 404,
            "client": "127.0.0.1",
            "problem": "not-found",
            "request_id": "r1",
            "level": "info",
            "logger": "lifeguard.request",
            "service": "ledger",
        }

    async def test_probes_are_neither_logged_nor_counted(self, serving: Service, log: Log) -> None:
        log()
        for path in ("/healthz", "/readyz", "/metrics"):
            await serving.client.get(path)
        assert log() == []
        metrics = (await serving.client.get("/metrics")).text
        for path in ("/healthz", "/readyz", "/metrics"):
            assert f'handler="{path}",method="GET"' not in metrics

    async def test_requests_are_counted_by_route(self, serving: Service) -> None:
        for path in ("/test/tagged/1", "/test/tagged/2", "/no/such/thing"):
            await serving.client.get(path)
        metrics = (await serving.client.get("/metrics")).text
        assert 'http_requests_total{handler="/test/tagged/{name}",method="GET",status="2xx"} 2.0' in metrics
        assert 'http_requests_total{handler="none",method="GET",status="4xx"}' in metrics
        assert "/no/such/thing" not in metrics

    async def test_a_client_that_left_is_noted_when_its_request_is_cut_off(
        self, serving: Service, log: Log
    ) -> None:
        log()
        request = asyncio.create_task(serving.client.get("/test/sleep/30"))
        drain = serving.state["drain"]
        while not drain.in_flight:  # noqa: ASYNC110 - counts what the server does, nothing to wait on
            await asyncio.sleep(0.01)
        for task in list(drain._requests):
            task.cancel()
        assert (await request).status_code == 500
        (line,) = [line for line in log() if line["event"] == "request"]
        assert line["status"] == 499

    async def test_every_answer_has_the_security_headers(self, serving: Service) -> None:
        for path in ("/healthz", "/nowhere", "/items"):
            headers = (await serving.client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
