"""What strangers may try: the headers of answers, bodies that never end, hosts and methods of their own."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
from fastapi import APIRouter, Request
from lifeguard.server import process as server
from lifeguard.server import protocol, write_deadline
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from lifeguard.web import hangup, middleware

from packages.lifeguard.tests.checkout import ROOT

LIMIT = 100_000
PATIENCE = 0.2
SETTINGS = {"max_body_bytes": LIMIT}
NOTHING = "default-src 'none'; frame-ancestors 'none'"

routes = APIRouter(prefix="/test")


@routes.post("/length")
async def length(request: Request) -> int:
    return len(await request.body())


arrived_bytes: list[int] = []


@routes.post("/parts")
async def parts(request: Request) -> int:
    async for part in request.stream():
        arrived_bytes.append(len(part))  # noqa: PERF401 - the test waits for each
    return sum(arrived_bytes)


def has_arrived(size: int) -> bool:
    return sum(arrived_bytes) >= size


@routes.post("/ponder")
async def ponder(request: Request) -> str:
    await request.body()
    await asyncio.sleep(hangup._PATIENCE + 2 * PATIENCE)
    return "the answer"


@routes.get("/things/{name}")
async def thing(name: str) -> str:
    return name


@routes.delete("/things/{name}", status_code=204)
async def remove_thing(name: str) -> None:
    pass


class TestHeaders:
    @pytest.mark.parametrize(
        "path", ["/items", "/nowhere", "/healthz", "/readyz", "/metrics", "/pool", "/pool/leases"]
    )
    async def test_nothing_is_kept_by_caches_nor_run_by_browsers(self, serving: Service, path: str) -> None:
        headers = (await serving.client.get(path)).headers
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"] == NOTHING
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"

    @pytest.mark.parametrize("path", ["/pool/live", "/docs"])
    async def test_pages_run_their_own_scripts_only(self, serving: Service, path: str) -> None:
        answer = await serving.client.get(path)
        (policy,) = answer.headers.get_list("content-security-policy")
        directives = dict(directive.strip().split(" ", 1) for directive in policy.split(";"))
        assert directives["default-src"] == "'none'"
        assert directives["frame-ancestors"] == "'none'"
        assert "unsafe" not in directives["script-src"]
        assert "'sha256-" in directives["script-src"]
        assert answer.headers["cache-control"] == "no-store"

    async def test_what_comes_from_elsewhere_is_one_version_and_has_its_hash(self, serving: Service) -> None:
        page = (await serving.client.get("/docs")).text
        tags = [tag for tag in re.findall(r"<(?:script|link)[^>]*>", page) if "https://" in tag]
        assert len(tags) == 2
        for tag in tags:
            assert re.search(r"@\d+\.\d+\.\d+/", tag)
            assert re.search(r'integrity="sha384-[\w+/]{64}" crossorigin="anonymous"', tag)


class TestMethods:
    async def test_allow_names_the_methods_of_all_routes_of_the_path(self, serving: Service) -> None:
        answer = await serving.client.put("/test/things/1")
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")

    async def test_no_redirect_repeats_the_host_header(self, serving: Service) -> None:
        answer = await serving.client.get("/healthz/", headers={"Host": "elsewhere.example"})
        assert answer.status_code == 404
        assert "elsewhere.example" not in f"{answer.headers}{answer.text}"


class TestFraming:
    """What two servers in a row could understand in two ways, so that the second sees another request."""

    @pytest.mark.parametrize(
        "headers",
        [
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Content-Length: 3\r\nContent-Length: 4",
            "Content-Length: +3",
            "Content-Length : 3",
            "Transfer-Encoding: chunked, identity",
            "X-Folded: a\r\n Content-Length: 3",
            "X-Bare: a\nContent-Length: 3",
        ],
    )
    async def test_that_is_ambiguous_is_refused(self, serving: Service, headers: str) -> None:
        async with connected(serving) as (reader, writer):
            writer.write(f"POST /test/length HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n0\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


class TestBody:
    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(middleware, "_BODY_PATIENCE", PATIENCE)

    @pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
    async def test_that_does_not_come_is_not_waited_for(self, serving: Service, framing: str) -> None:
        async with connected(serving) as (reader, writer):
            writer.write(f"POST /test/length HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
            answer = await reader.readuntil(b"}")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer
        assert b'"type":"/problems/request-timeout"' in answer

    async def test_that_trickles_is_not_waited_for(self, serving: Service) -> None:
        async with connected(serving) as (reader, writer):
            writer.write(b"POST /test/length HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")

            async def trickle() -> None:
                while True:
                    writer.write(b"x")
                    await asyncio.sleep(0.02)

            trickling = asyncio.create_task(trickle())
            answer = await reader.readuntil(b"}")
            trickling.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")

    async def test_that_comes_steadily_may_take_longer(
        self, serving: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the clock of the test, which is right however busy the machine is."""
        parts, patience = 4, 10.0
        clock = 0.0

        async def steadily() -> AsyncIterator[bytes]:
            nonlocal clock
            for part in range(parts):
                yield b"x" * (LIMIT // parts)
                arrived = (part + 1) * (LIMIT // parts)
                await eventually(partial(has_arrived, arrived))
                clock += 0.9 * patience

        arrived_bytes.clear()
        monkeypatch.setattr(middleware, "_BODY_PATIENCE", patience)
        monkeypatch.setattr(middleware, "_SLOWEST_BODY", LIMIT / parts / patience)
        monkeypatch.setattr(middleware, "perf_counter", lambda: clock)
        answer = await serving.client.post("/test/parts", content=steadily())
        assert (answer.status_code, answer.text) == (200, str(LIMIT))

    async def test_that_nobody_reads_holds_nothing(self, serving: Service) -> None:
        async with connected(serving) as (reader, writer):
            writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            answer = await reader.readuntil(b"}")
            assert answer.startswith(b"HTTP/1.1 404 ")
            await eventually(lambda: serving.state["drain"].in_flight == 0)

    async def test_that_is_too_large_ends_the_connection(self, serving: Service) -> None:
        answer = await serving.client.post("/test/length", content=b"x" * (LIMIT + 1))
        assert (answer.status_code, answer.headers["connection"]) == (413, "close")

    async def test_once_whole_sets_no_deadline_to_the_work(self, serving: Service) -> None:
        """Not to the wait for the client's hanging up either, which is a receive too."""
        async with connected(serving) as (reader, writer):
            # In one piece: the body is there with its head, however busy the machine is.
            writer.write(b"POST /test/ponder HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n?")
            assert (await reader.readuntil(b'"the answer"')).startswith(b"HTTP/1.1 200 ")


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    url = urlsplit(str(service.client.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


def test_the_limits_are_those_that_are_documented() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    table = text.partition("## Limits")[2].partition("\n\nNo request")[0]
    _, *limits = (line.split(" | ")[1] for line in table.splitlines() if line.startswith("| "))
    assert limits[:5] == [
        f"{protocol.LARGEST_HEADER // 1024} KiB, {protocol.PATIENCE:g} s",
        f"`MAX_BODY_BYTES`, {middleware._BODY_PATIENCE:g} s and a second more for each"
        f" {middleware._SLOWEST_BODY // 1024} KiB",
        f"{protocol.PATIENCE:g} s",
        f"{write_deadline.WRITE_PATIENCE:g} s without progress",
        f"{protocol.PATIENCE:g} s before its first request, {server._KEEP_ALIVE:g} s after",
    ]
