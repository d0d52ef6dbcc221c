"""What comes after an answer, and what has no end of its own: background work and event streams."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from lifeguard.database import DatabaseUnavailable, call_scope
from lifeguard.testing.clients import plain_client
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import DatabaseDep, DrainDep, hangup

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.web.conftest import Log

SETTINGS = {"log_level": "info"}
routes = APIRouter(prefix="/after")
done: list[str] = []
may_go_on = asyncio.Event()
FAULTS: dict[str, Exception] = {
    "unknown": ZeroDivisionError("by nobody"),
    "anybody's timeout": TimeoutError(),
    "known": DatabaseUnavailable("the connection was lost"),
}
TIMEOUT = "0.2"
"""Of the client, in seconds: over before the work that comes after the answer."""


async def work(database: DatabaseDep, name: str) -> None:
    """Take longer than the client's patience, and the hang-up's, and borrow in the end."""
    await may_go_on.wait()
    async with database.connection() as connection:
        await connection.fetchval("SELECT pg_sleep(0.05)")
        tag = await connection.fetchval("SHOW application_name")
    scope = call_scope.get()
    done.append(f"{name} {scope.tag if scope else tag}")


@routes.get("/background")
async def background(database: DatabaseDep, tasks: BackgroundTasks) -> None:
    tasks.add_task(work, database, "background")


async def finishing(database: DatabaseDep) -> AsyncIterator[None]:
    yield
    await work(database, "dependency")


@routes.get("/dependency", dependencies=[Depends(finishing)])
async def dependency() -> None: ...


@routes.get("/stream")
async def stream(database: DatabaseDep, tasks: BackgroundTasks) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        yield "part"

    tasks.add_task(work, database, "stream")
    return StreamingResponse(parts(), background=tasks)


async def fail(error: Exception) -> None:
    await asyncio.sleep(0)
    raise error


@routes.get("/fails/{kind}")
async def fails(kind: str, tasks: BackgroundTasks) -> None:
    tasks.add_task(fail, FAULTS[kind])


@routes.get("/events")
async def events(drain: DrainDep, said: Annotated[str, "until when"] = "drain") -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        try:
            yield "data: hello\n\n"
            if said == "drain":
                await drain.wait()
                yield "data: goodbye\n\n"
            else:
                await asyncio.Event().wait()
        finally:
            done.append("closed")

    return StreamingResponse(parts(), media_type="text/event-stream; charset=utf-8")


@routes.get("/endless")
async def endless() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        yield "hello\n"
        await asyncio.Event().wait()

    return StreamingResponse(parts(), media_type="text/plain")


@routes.get("/events/of-the-database/{what}")
async def events_of_the_database(what: str, database: DatabaseDep) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        yield "data: hello\n\n"
        async with database.connection() as connection:
            if what == "lost":
                await connection.fetchval("SELECT pg_terminate_backend(pg_backend_pid())")
            await connection.fetchval("SELECT pg_sleep(5)")

    return StreamingResponse(parts(), media_type="text/event-stream")


@routes.get("/events/failing/{kind}")
async def failing_events(kind: str) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        yield "data: hello\n\n"
        raise FAULTS[kind]

    return StreamingResponse(parts(), media_type="text/event-stream")


@routes.get("/events/failing-fastapi/{kind}", response_class=EventSourceResponse)
async def failing_native_events(kind: str) -> AsyncIterator[str]:
    yield "hello"
    raise FAULTS[kind]


@routes.get("/events/fastapi", response_class=EventSourceResponse)
async def native_events() -> AsyncIterator[str]:
    yield "hello"
    await asyncio.Event().wait()


@routes.get("/held")
async def held() -> str:
    await may_go_on.wait()
    return "whole"


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hangup, "_PATIENCE", 0.01)
    done.clear()
    may_go_on.clear()


async def hang_up_after(serving: Service, path: str, **headers: str) -> httpx.Response:
    """Get the whole answer, and close the connection while the service is still at work."""
    async with plain_client(serving.client.base_url) as client:
        return await client.get(path, headers=headers)


def assert_told(line: dict[str, Any], kind: str) -> None:
    """What is known has its words, and anything else a traceback that ends with the cause."""
    if kind == "known":
        assert line["error"] == "DatabaseUnavailable: the connection was lost"
        assert "exception" not in line
    else:
        assert line["level"] == "error"
        assert line["exception"].splitlines()[-1].startswith(type(FAULTS[kind]).__name__)


class TestWorkAfterTheAnswer:
    @pytest.mark.parametrize("kind", ["background", "dependency", "stream"])
    async def test_is_done_whatever_the_client_does(self, serving: Service, kind: str) -> None:
        """With the request's id and without its deadline, for nobody waits for it."""
        answer = await hang_up_after(
            serving, f"/after/{kind}", **{"X-Request-ID": "r-1", "X-Request-Timeout": TIMEOUT}
        )
        assert answer.status_code == 200
        await asyncio.sleep(float(TIMEOUT))  # the client's time is up
        assert serving.state["drain"].in_flight == 1
        may_go_on.set()
        await eventually(lambda: done)
        assert done == [f"{kind} r-1"]
        await eventually(lambda: serving.state["drain"].in_flight == 0)

    @pytest.mark.parametrize("kind", list(FAULTS))
    async def test_that_fails_is_one_event_with_the_requests_id(
        self, serving: Service, log: Log, kind: str
    ) -> None:
        log()
        answer = await hang_up_after(serving, f"/after/fails/{kind}", **{"X-Request-ID": "r-2"})
        assert answer.status_code == 200
        await eventually(lambda: serving.state["drain"].in_flight == 0)
        [line] = [line for line in log() if line["level"] in {"warning", "error"}]
        assert (line["event"], line["request_id"]) == ("work_after_answer_failed", "r-2")
        assert_told(line, kind)

    async def test_is_not_counted_as_time_to_answer(self, serving: Service) -> None:
        async def answered() -> float:
            samples = (await serving.client.get("/metrics")).text.splitlines()
            wanted = 'http_requests_total{handler="/after/background"'
            return sum(float(line.rpartition(" ")[2]) for line in samples if line.startswith(wanted))

        before = await answered()
        await hang_up_after(serving, "/after/background")
        assert await answered() == before + 1
        may_go_on.set()
        await eventually(lambda: done)

    async def test_is_waited_for_at_the_end(self, migrated_database: str) -> None:
        async with service(settings_for(migrated_database), routes=routes) as running:
            await until_ready(running)
            await hang_up_after(running, "/after/background")
            await running.stop()
            assert running.state["drain"].in_flight == 1
            may_go_on.set()
        assert len(done) == 1

    async def test_that_is_cut_off_at_the_end_is_counted_and_no_traceback(
        self, migrated_database: str, log: Log
    ) -> None:
        async with service(settings_for(migrated_database, drain_timeout=0.2), routes=routes) as running:
            await until_ready(running)
            await hang_up_after(running, "/after/background")
            await running.stop()
        assert running.state["drain"].cut_off == 1
        lines = log()
        assert [line["requests"] for line in lines if line["event"] == "requests_cut_off"] == [1]
        assert not [line for line in lines if line["level"] == "error"]


@asynccontextmanager
async def streaming(running: Service, path: str) -> AsyncIterator[Callable[[], Awaitable[list[str]]]]:
    """An event stream that has begun; the call gives what comes after its first event, to its clean end."""
    async with running.client.stream("GET", path) as answer:
        lines = answer.aiter_lines()
        assert "hello" in await anext(lines)

        async def rest() -> list[str]:
            return [line async for line in lines if line]

        yield rest


class TestStreams:
    @pytest.mark.parametrize("kind", list(FAULTS))
    @pytest.mark.parametrize("way", ["failing", "failing-fastapi"])
    async def test_that_fail_are_broken_off_with_one_event_and_their_request_says_so(
        self, serving: Service, log: Log, kind: str, way: str
    ) -> None:
        log()
        with pytest.raises(httpx.RemoteProtocolError):  # and not: takes what it has for the whole
            await serving.client.get(f"/after/events/{way}/{kind}")
        await eventually(lambda: serving.state["drain"].in_flight == 0)
        lines = log()
        [told] = [line for line in lines if line["level"] in {"warning", "error"}]
        assert told["event"] == "answer_broken_off"
        assert_told(told, kind)
        [request] = [line for line in lines if line["event"] == "request"]
        assert (request["status"], request["broken_off"]) == (200, True)
        assert request["error"].startswith(type(FAULTS[kind]).__name__)

    async def test_learn_of_the_drain_and_say_goodbye(self, migrated_database: str) -> None:
        async with (
            service(settings_for(migrated_database, drain_streams=5), routes=routes) as running,
            streaming(running, "/after/events") as rest,
        ):
            await running.stop()
            assert await rest() == ["data: goodbye"]

    @pytest.mark.parametrize("path", ["/after/events?said=never", "/after/events/fastapi"])
    async def test_are_ended_in_time_while_others_keep_theirs(
        self, migrated_database: str, path: str, log: Log
    ) -> None:
        async with (
            service(settings_for(migrated_database, drain_streams=0.1), routes=routes) as running,
            streaming(running, path) as rest,
        ):
            other = asyncio.create_task(hang_up_after(running, "/after/held"))
            drain = running.state["drain"]
            await eventually(lambda: drain.in_flight == 2)
            await running.stop()
            assert await rest() == []
            await eventually(lambda: drain.in_flight == 1)
            may_go_on.set()
            assert (await other).json() == "whole"
        assert not [line for line in log() if line["level"] in {"warning", "error"}]
        assert drain.cut_off == 0

    async def test_of_other_types_are_broken_off_at_the_end_of_the_drain_without_a_traceback(
        self, migrated_database: str, log: Log
    ) -> None:
        settings = settings_for(migrated_database, drain_timeout=0.2, log_level="info")
        async with service(settings, routes=routes) as running, streaming(running, "/after/endless") as rest:
            await running.stop()
            with pytest.raises(httpx.RemoteProtocolError):
                await rest()
            await eventually(lambda: running.state["drain"].in_flight == 0)
            lines = log()
        assert [line["event"] for line in lines if line["level"] in {"warning", "error"}] == [
            "requests_cut_off"
        ]
        [request] = [line for line in lines if line.get("route") == "/after/endless"]
        assert (request["status"], request["broken_off"]) == (200, True)
        assert request["problem"] == "shutting-down"

    @pytest.mark.parametrize("what", ["deadline", "lost"])
    async def test_whose_statement_fails_are_broken_off_with_a_warning(
        self, serving: Service, log: Log, what: str
    ) -> None:
        log()
        headers = {"X-Request-Timeout": "0.5"} if what == "deadline" else {}
        with pytest.raises(httpx.RemoteProtocolError):
            await serving.client.get(f"/after/events/of-the-database/{what}", headers=headers)
        await eventually(lambda: serving.state["drain"].in_flight == 0)
        [told] = [line for line in log() if line["level"] in {"warning", "error"}]
        assert (told["event"], told["level"]) == ("answer_broken_off", "warning")
        assert re.match(r"TimeoutError$|DatabaseUnavailable: ", told["error"])
        assert "exception" not in told

    async def test_that_begin_during_the_drain_have_the_same_time(self, migrated_database: str) -> None:
        async with service(settings_for(migrated_database, drain_streams=0.1), routes=routes) as running:
            drain = running.state["drain"]
            drain.begin(delay=5)
            async with streaming(running, "/after/events?said=never") as rest:
                assert await rest() == []
            assert done == ["closed"]
