"""Requests that are none, and unusual ones that are: one answer to each, and no request in another's body."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lifeguard.testing.processes import ServiceProcess, running
from lifeguard.testing.servers import unused_port

from packages.lifeguard.tests.web.corpus import CHUNKED, GET, INCOMPLETE, MALFORMED, NEXT, VALID
from packages.lifeguard.tests.web.wires import Answer, answers_to

SERVICE = """
import os

from fastapi import Request

from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.sample.settings import Settings
from lifeguard.commands import command_line
from lifeguard.server import connection, protocol
from lifeguard.web import TransactionDep, middleware

connection.LINGER = 0.4
protocol.PATIENCE = middleware._BODY_PATIENCE = float(os.environ["PATIENCE"])


async def echo(request: Request) -> dict[str, object]:
    body = (await request.body()).decode("latin-1")
    query = request.url.query
    return {"body": body, "path": request.url.path, "query": query, "host": request.headers.get("host")}


async def refused(transaction: TransactionDep) -> None:
    raise AssertionError("there is no database")


def with_echo(settings):
    service = create_app(settings)
    service.add_api_route("/refused", refused, methods=["POST"])
    service.add_api_route("/echo", echo, methods=["GET", "POST", "PUT", "OPTIONS", "PROPFIND"])
    service.add_api_route("/echo/{rest:path}", echo, methods=["GET", "POST"])
    return service


command_line(with_echo, Settings)(["serve"])
"""


def with_patience(seconds: float, directory: Path) -> AbstractAsyncContextManager[ServiceProcess]:
    variables = {"DATABASE_URL": f"postgresql://nobody@127.0.0.1:{unused_port()}/x", "LOG_LEVEL": "critical"}
    return running(["-c", SERVICE], cwd=directory, variables={**variables, "PATIENCE": str(seconds)})


@pytest.fixture(scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    """Without a database: what needs one is refused. It waits for clients that a busy machine delays."""
    async with with_patience(30, tmp_path_factory.mktemp("service")) as process:
        yield process


@pytest.fixture(scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    """The same, but it does not wait long."""
    async with with_patience(0.4, tmp_path_factory.mktemp("hasty")) as process:
        yield process


def pieces(request: bytes, cuts: list[int]) -> Iterator[bytes]:
    """`request` in pieces, cut at these places, as far as it is so long."""
    ends = sorted({cut % max(1, len(request)) for cut in cuts} | {len(request)})
    for start, end in zip([0, *ends], ends, strict=False):
        yield request[start:end]


def check_refused(answers: list[Answer], status: int) -> None:
    """One answer, this, and not a word more; or none, from a connection that was ended."""
    assert [answer.status for answer in answers] in ([status], [])
    for answer in answers:
        assert answer.headers["connection"] == "close"
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_request_gets_one_answer_and_no_other_is_read(
    process: ServiceProcess, name: str
) -> None:
    status, request = MALFORMED[name]
    answers = await answers_to(process.url, [request + NEXT])
    assert answers
    check_refused(answers, status)


@pytest.mark.parametrize("name", INCOMPLETE)
async def test_what_does_not_come_to_its_end_is_waited_for_no_longer_than_allowed(
    hasty: ServiceProcess, name: str
) -> None:
    status, request = INCOMPLETE[name]
    assert [answer.status for answer in await answers_to(hasty.url, [request])] == [status]


@pytest.mark.parametrize("name", VALID)
async def test_what_is_unusual_but_right_is_served_and_so_is_the_next(
    process: ServiceProcess, name: str
) -> None:
    request, status, seen = VALID[name]
    first, *rest = await answers_to(process.url, [request + NEXT])
    assert (first.status, seen in first.body) == (status, True), first
    assert [answer.id for answer in rest] == ([] if b"HTTP/1.0" in request else ["next"])


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*VALID, *MALFORMED]), st.lists(st.integers(0, 10_000), max_size=8), st.booleans())
async def test_where_it_is_cut_makes_no_difference(
    process: ServiceProcess, name: str, cuts: list[int], after_another: bool
) -> None:
    before = GET + b"X-Request-ID: before\r\n\r\n" if after_another else b""
    request = VALID[name][0] if name in VALID else MALFORMED[name][1]
    answers = await answers_to(process.url, pieces(before + request + NEXT, cuts))
    if after_another and answers:
        assert answers.pop(0).id == "before"
    if name in VALID:
        ids = [answer.id for answer in answers[1:]]
        assert answers[0].status == VALID[name][1]
        assert ids == ([] if b"HTTP/1.0" in request else ["next"])
    else:
        check_refused(answers, MALFORMED[name][0])


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=100).map(GET.__add__),
        st.binary(max_size=100).map(CHUNKED.__add__),
    )
)
@example(b"\r\n" * 1000)
async def test_no_bytes_at_all_are_an_error_of_the_service(hasty: ServiceProcess, noise: bytes) -> None:
    for answer in await answers_to(hasty.url, [noise, NEXT]):
        assert answer.status in {200, 400, 408, 413, 414, 417, 431, 501, 505}
        assert answer.id != "smuggled"
    assert not re.search("Traceback|Exception", hasty.output)
    assert await hasty.answers("/healthz")
