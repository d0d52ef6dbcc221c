"""`stale-if-error`: what is kept, what it stands in for, and who never gets it."""

from collections.abc import AsyncIterator, Iterator
from itertools import count

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import StreamingResponse
from lifeguard.database import BreakerState
from lifeguard.pool import PoolUnavailable
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from lifeguard.web import DatabaseDep, problems, stale_if_error
from lifeguard.web.routes import Routing
from lifeguard.web.stale import LARGEST_ANSWER, StaleIfError

from packages.lifeguard.tests.web.conftest import Log

SETTINGS = {"service_name": "9-lives", "breaker_reset_timeout": 10, "log_level": "info"}

routes = APIRouter(prefix="/test")
numbers = count(1)
failure: list[Exception] = []
"""What the routes raise; nothing while it is empty."""


def fail_if_told() -> None:
    if failure:
        raise failure[0]


@routes.get("/number/{name}", dependencies=[stale_if_error(seconds=60)])
async def number(name: str, _: DatabaseDep) -> int:
    fail_if_told()
    return next(numbers)


@routes.put("/number/{name}")
async def set_number(name: str) -> None:
    fail_if_told()


@routes.get("/unkept")
async def unkept() -> int:
    fail_if_told()
    return next(numbers)


@routes.get("/with-header/{name}", dependencies=[stale_if_error(seconds=60)])
async def with_header(name: str, value: str, response: Response) -> int:
    fail_if_told()
    response.headers[name] = value
    return next(numbers)


@routes.get("/parts", dependencies=[stale_if_error(seconds=60)])
async def parts(break_off: bool = False) -> StreamingResponse:
    fail_if_told()

    async def stream() -> AsyncIterator[str]:
        yield "one "
        if break_off:
            raise RuntimeError("no second part")
        yield "two"

    return StreamingResponse(stream())


@routes.get("/large", dependencies=[stale_if_error(seconds=60)])
async def large(size: int) -> Response:
    fail_if_told()
    return Response(b"x" * size)


@pytest.fixture(autouse=True)
def nothing_fails() -> Iterator[None]:
    yield
    failure.clear()


def fail(error: Exception) -> None:
    failure[:] = [error]


def is_stale(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and "stale-if-error" in answer.headers.get("cache-status", "")


def status_of(error: Exception) -> int:
    return int(problems.problem_of(error).status)


async def is_kept(client: httpx.AsyncClient, url: str, headers: dict[str, str] | None = None) -> bool:
    """Whether the answer to this request stands in for an error of the next one."""
    assert (await client.get(url, headers=headers)).status_code == 200
    client.cookies.clear()  # a test may set one
    fail(problems.Unavailable())
    answer = await client.get(url, headers=headers)
    failure.clear()
    assert is_stale(answer) or answer.status_code == 503
    return is_stale(answer)


class TestStandingIn:
    @pytest.mark.parametrize(
        "error",
        [problems.Unavailable(), problems.Saturated(), problems.StatementTimeout(), RuntimeError("a bug")],
        ids=lambda error: type(error).__name__,
    )
    async def test_for_errors_of_the_service_and_says_so(self, serving: Service, error: Exception) -> None:
        url = f"/test/number/{type(error).__name__}"
        fresh = await serving.client.get(url)
        assert "age" not in fresh.headers
        fail(error)
        stale = await serving.client.get(url)
        assert (stale.status_code, stale.json()) == (200, fresh.json())
        assert stale.headers["content-type"] == "application/json"
        assert int(stale.headers["age"]) < 60
        assert stale.headers["cache-status"] == (
            f'"9-lives"; fwd=stale; fwd-status={status_of(error)}; detail=stale-if-error'
        )

    async def test_carries_the_id_of_the_request_that_it_answers(self, serving: Service) -> None:
        await serving.client.get("/test/number/id", headers={"X-Request-ID": "the-first"})
        fail(problems.Unavailable())
        stale = await serving.client.get("/test/number/id", headers={"X-Request-ID": "the-second"})
        assert is_stale(stale)
        assert stale.headers.get_list("x-request-id") == ["the-second"]

    async def test_leaves_the_error_in_the_log(self, serving: Service, log: Log) -> None:
        await serving.client.get("/test/number/logged")
        fail(RuntimeError("a bug"))
        log()
        assert is_stale(await serving.client.get("/test/number/logged"))
        lines = {line["event"]: line for line in log()}
        assert "a bug" in lines["unforeseen_error"]["exception"]
        assert (lines["request"]["status"], lines["request"]["problem"]) == (200, "internal")

    async def test_a_fresh_answer_replaces_the_old_one(self, serving: Service) -> None:
        await serving.client.get("/test/number/replaced")
        latest = await serving.client.get("/test/number/replaced")
        fail(problems.Unavailable())
        assert (await serving.client.get("/test/number/replaced")).json() == latest.json()

    async def test_for_what_the_gate_refuses(self, serving: Service) -> None:
        """The endpoint is not reached: nothing but the layer outside of the gate can answer."""
        breaker = serving.state["database"].breaker
        fresh = await serving.client.get("/test/number/gate")
        stats = serving.state["database"].primary.stats()
        for _ in range(serving.state["settings"].breaker_fail_max):
            breaker.failed(breaker.admit(), PoolUnavailable("gone", stats, retry_after=1))
        assert (await serving.client.get("/test/number/never-asked-for")).status_code == 503
        stale = await serving.client.get("/test/number/gate")
        breaker.look_now()
        await eventually(lambda: breaker.state is BreakerState.CLOSED)
        assert is_stale(stale)
        assert stale.json() == fresh.json()
        assert (await serving.client.get("/test/number/gate")).json() > fresh.json()

    async def test_not_for_the_clients_own_errors(self, serving: Service) -> None:
        await serving.client.get("/test/number/missing")
        fail(problems.NotFound())
        assert (await serving.client.get("/test/number/missing")).status_code == 404

    async def test_not_for_routes_that_did_not_ask_for_it(self, serving: Service) -> None:
        assert not await is_kept(serving.client, "/test/unkept")

    async def test_not_once_the_answer_has_begun(self, serving: Service) -> None:
        await serving.client.get("/test/parts?break_off=false")
        with pytest.raises(httpx.RemoteProtocolError):
            await serving.client.get("/test/parts?break_off=true")


class TestWhose:
    @pytest.mark.parametrize(
        "header",
        [
            {"Authorization": "Bearer x"},
            {"Cookie": "session=1"},
            {"If-None-Match": '"1"'},
            {"If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"},
            {"Range": "bytes=0-1"},
            {"Cache-Control": "no-cache"},
        ],
        ids=lambda header: next(iter(header)),
    )
    async def test_such_requests_neither_leave_nor_get_an_answer(
        self, serving: Service, header: dict[str, str]
    ) -> None:
        name = next(iter(header))
        assert not await is_kept(serving.client, f"/test/number/{name}", header)
        assert not await is_kept(serving.client, f"/test/number/{name}?left-by=somebody", header)
        fail(problems.Unavailable())
        assert (await serving.client.get(f"/test/number/{name}")).status_code == 503

    @pytest.mark.parametrize("other", ["/test/number/mine?page=2", "/test/number/yours"])
    async def test_an_answer_belongs_to_its_path_and_query(self, serving: Service, other: str) -> None:
        assert await is_kept(serving.client, "/test/number/mine")
        fail(problems.Unavailable())
        assert not is_stale(await serving.client.get(other))

    async def test_an_answer_belongs_to_its_host(self, serving: Service) -> None:
        assert await is_kept(serving.client, "/test/number/host", {"Host": "a.example"})
        fail(problems.Unavailable())
        assert not is_stale(await serving.client.get("/test/number/host", headers={"Host": "b.example"}))

    async def test_an_answer_that_varies_by_accept_belongs_to_that_accept(self, serving: Service) -> None:
        url = "/test/with-header/vary?value=accept"
        assert await is_kept(serving.client, url, {"Accept": "text/csv"})
        fail(problems.Unavailable())
        assert not is_stale(await serving.client.get(url, headers={"Accept": "text/html"}))

    async def test_a_write_to_the_same_url_forgets_the_answer(self, serving: Service) -> None:
        url = "/test/number/written"
        assert await is_kept(serving.client, url)
        fail(problems.Unavailable())
        assert (await serving.client.put(url)).status_code == 503
        assert is_stale(await serving.client.get(url))
        failure.clear()
        assert (await serving.client.put(url)).status_code == 200
        fail(problems.Unavailable())
        assert (await serving.client.get(url)).status_code == 503


class TestKeeping:
    @pytest.mark.parametrize(
        ("name", "value", "kept"),
        [
            ("cache-control", "max-age=5, stale-if-error=60", True),
            ("cache-control", "no-store", False),
            ("cache-control", 'Private="x", max-age=5', False),
            ("cache-control", "max-age=5, must-revalidate", False),
            ("set-cookie", "session=1", False),
            ("vary", "Accept", True),
            ("vary", "Accept, Origin", False),
            ("vary", "*", False),
        ],
    )
    async def test_obeys_the_headers_of_the_answer(
        self, serving: Service, name: str, value: str, kept: bool
    ) -> None:
        url = str(httpx.URL(f"/test/with-header/{name}", params={"value": value}))
        assert await is_kept(serving.client, url) is kept

    async def test_keeps_an_answer_that_comes_in_parts(self, serving: Service) -> None:
        assert await is_kept(serving.client, "/test/parts")
        fail(problems.Unavailable())
        assert (await serving.client.get("/test/parts")).text == "one two"

    @pytest.mark.parametrize(("size", "kept"), [(LARGEST_ANSWER - 1000, True), (LARGEST_ANSWER, False)])
    async def test_keeps_no_answer_that_is_too_large(self, serving: Service, size: int, kept: bool) -> None:
        assert await is_kept(serving.client, f"/test/large?size={size}") is kept


class Bench:
    """The layer around a service of its own, under a clock of its own."""

    def __init__(self, *, most_answers: int = 10, most_bytes: int = 10_000) -> None:
        self.now = 1000.0
        self.fails = False
        self.noted: list[str] = []
        service = FastAPI()

        @service.get("/{name}", dependencies=[stale_if_error(seconds=60)])
        async def hundred_bytes(name: str) -> Response:
            return Response(status_code=503) if self.fails else Response(b"x" * 100)

        layer = StaleIfError(
            service,
            routing=Routing(service),
            name="test",
            note=self.noted.append,
            most_answers=most_answers,
            most_bytes=most_bytes,
            clock=lambda: self.now,
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(layer), base_url="http://test")

    async def get(self, path: str) -> httpx.Headers | None:
        """The headers of the answer; None if it is an error."""
        answer = await self.client.get(path)
        return answer.headers if answer.status_code == 200 else None


class TestBounds:
    async def test_an_answer_has_an_age_and_is_dropped_when_it_is_too_old(self) -> None:
        bench = Bench()
        await bench.get("/x")
        bench.fails = True
        bench.now += 59.9
        stale = await bench.get("/x")
        assert stale is not None
        assert stale["age"] == "59"
        bench.now += 0.2
        assert await bench.get("/x") is None
        assert bench.noted == ["/{name}"]

    @pytest.mark.parametrize("bounds", [{"most_answers": 3}, {"most_bytes": 450}], ids=str)
    async def test_the_oldest_answers_make_room(self, bounds: dict[str, int]) -> None:
        bench = Bench(**bounds)
        for number in range(10):
            await bench.get(f"/{number}")
        await bench.get("/7")  # made anew, and counted once
        bench.fails = True
        kept = [number for number in range(10) if await bench.get(f"/{number}")]
        assert kept == [7, 8, 9]
