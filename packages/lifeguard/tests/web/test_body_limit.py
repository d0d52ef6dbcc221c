"""How large a body may be, where its route says otherwise than `MAX_BODY_BYTES`."""

from collections.abc import AsyncIterator

import pytest
from fastapi import APIRouter, FastAPI, Request
from lifeguard.settings import LARGEST_BODY
from lifeguard.testing.serving import Service
from lifeguard.web import max_body
from lifeguard.web.body_limit import BodiesDoNotFit, refuse_what_never_fits

from packages.lifeguard.tests.inside import service, settings_for

LIMIT = 1000
LESS, MORE, MOST = 10, 5000, LARGEST_BODY

routes = APIRouter(prefix="/test")
inner = APIRouter(prefix="/inner", dependencies=[max_body(MORE)])
mounted = FastAPI()


async def length(request: Request) -> int:
    return sum([len(chunk) async for chunk in request.stream()])


for router in (routes, mounted.router):
    router.add_api_route("/default", length, methods=["POST"])
    router.add_api_route("/less", length, methods=["POST"], dependencies=[max_body(LESS)])
    router.add_api_route("/more/{name}", length, methods=["POST"], dependencies=[max_body(MORE)])
    router.add_api_route("/most", length, methods=["POST", "PUT"], dependencies=[max_body(MOST)])
routes.add_api_route("/most", length, methods=["PATCH"])
inner.add_api_route("/router", length, methods=["POST"])
inner.add_api_route("/route", length, methods=["POST"], dependencies=[max_body(LESS)])
routes.include_router(inner)


@pytest.fixture(scope="module")
async def limited(module_database: str) -> AsyncIterator[Service]:
    settings = settings_for(module_database, max_body_bytes=LIMIT)
    async with service(
        settings, routes=routes, prepare=lambda app: app.mount("/mounted", mounted)
    ) as running:
        yield running


async def in_chunks(size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, 64 * 1024):
        yield b"x" * min(64 * 1024, size - start)


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize(
    ("method", "path", "most"),
    [
        *(("POST", f"/{part}/default", LIMIT) for part in ("test", "mounted")),
        *(("POST", f"/{part}/less", LESS) for part in ("test", "mounted")),
        *(("POST", f"/{part}/more/x", MORE) for part in ("test", "mounted")),
        *(("PUT", f"/{part}/most", MOST) for part in ("test", "mounted")),
        ("PATCH", "/test/most", LIMIT),
        ("POST", "/test/inner/router", MORE),
        ("POST", "/test/inner/route", LESS),
    ],
)
async def test_is_what_the_route_says(
    limited: Service, method: str, path: str, most: int, framing: str
) -> None:
    for size in (most, most + 1):
        if framing == "length" and size > MOST:
            continue  # refused before its client has sent it, who may not get to see the answer then
        content = in_chunks(size) if framing == "chunks" else b"x" * size
        answer = await limited.client.request(method, path, content=content)
        if size == most:
            assert (answer.status_code, answer.text) == (200, str(size))
        else:
            assert (answer.status_code, answer.json()["type"]) == (413, "/problems/payload-too-large")
            assert answer.json()["detail"] == f"At most {most} bytes."


@pytest.mark.parametrize("path", ["/nowhere", "/test/default"])
async def test_is_the_default_where_no_route_takes_it(limited: Service, path: str) -> None:
    for size, status in ((LIMIT, {404, 405}), (LIMIT + 1, {413})):
        assert (await limited.client.delete(path)).status_code in {404, 405}
        answer = await limited.client.request("DELETE", path, content=b"x" * size)
        assert answer.status_code in status


async def test_of_a_head_with_a_body_leaves_its_get_to_be_found(limited: Service) -> None:
    answer = await limited.client.request("HEAD", "/healthz", content=b"x")
    assert answer.status_code == 200


def test_that_no_process_would_hold_stops_the_start(limited: Service) -> None:
    routing = limited.state["gate"].routing
    refuse_what_never_fits(routing, MOST)
    with pytest.raises(BodiesDoNotFit, match=rf"max_body\({MOST}\) of /.* MAX_BUFFERED_BYTES={MOST - 1}"):
        refuse_what_never_fits(routing, MOST - 1)


@pytest.mark.parametrize("size", [-1, LARGEST_BODY + 1])
def test_has_a_hard_maximum(size: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to {LARGEST_BODY} bytes"):
        max_body(size)


async def test_that_is_no_number_worth_reading_is_refused(limited: Service) -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = [(b"content-length", b"0" * 10 + b"9" * 5000)]
    scope = {"type": "http", "method": "POST", "path": "/test/most", "headers": headers, "query_string": b""}
    await limited.app({**scope, "state": dict(limited.state)}, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 413
