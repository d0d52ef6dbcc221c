"""An answer in one call: the same bytes, and the same connection afterwards, as by two messages."""

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.server.cycle import Cycle
from lifeguard.web import at_once
from lifeguard.web.answer_headers import complete, rendered
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

DATE = [(b"date", b"Sat, 28 Nov 2026 12:37:39 GMT")]
STATE = ("keep_alive", "disconnected", "waiting_for_100_continue", "response_started", "response_complete")
LINES = b"content-length: 5\r\nx-a: b\r\n"
HEADERS = [(b"content-length", b"5"), (b"x-a", b"b")]


class Transport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        if data:
            self.writes.append(bytes(data))

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.writes.append(b"".join(pieces))

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Ended:
    def __init__(self, **changes: Any) -> None:
        self.transport = Transport()
        self.flow = FlowControl(self.transport)  # type: ignore[arg-type]  # as far as it is used
        self.responses = 0
        options = {
            "keep_alive": True,
            "expect_100_continue": False,
            "default_headers": DATE,
            "access_log": False,
        }
        self.cycle = RequestResponseCycle(
            scope=changes.pop("scope", {"method": "GET"}),
            transport=self.transport,  # type: ignore[arg-type]  # as far as it is used
            flow=self.flow,
            logger=logging.getLogger("test"),
            access_logger=logging.getLogger("test"),
            message_event=asyncio.Event(),
            on_response=self.count,
            **{**options, **changes},
        )
        Cycle.made_of(self.cycle, None)

    def count(self) -> None:
        self.responses += 1

    @property
    def state(self) -> tuple[object, ...]:
        left = [getattr(self.cycle, name) for name in STATE]
        written = b"".join(self.transport.writes)
        return (*left, self.cycle.message_event.is_set(), self.transport.closed, self.responses, written)


async def by_messages(ended: Ended, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body)), *HEADERS[1:]]
    await ended.cycle.send({"type": "http.response.start", "status": status, "headers": headers})
    await ended.cycle.send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("size", [0, 5, 64 * 1024, 64 * 1024 + 1])
@pytest.mark.parametrize(
    "changes", [{}, {"keep_alive": False}, {"expect_100_continue": True}, {"default_headers": []}]
)
@pytest.mark.parametrize("status", [200, 201, 404, 503, 599])
async def test_writes_once_what_the_messages_would(status: int, changes: dict[str, Any], size: int) -> None:
    body = b"x" * size
    one, two = Ended(**changes), Ended(**changes)
    written = one.cycle.write_whole(status, LINES.replace(b"5", b"%d" % size), body)  # type: ignore[attr-defined]
    await by_messages(two, status, body)
    assert written
    assert one.state == two.state
    assert len(one.transport.writes) == 1


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (200, {"scope": {"method": "HEAD"}}),
        (204, {}),
        (304, {}),
        (100, {}),
        (700, {}),
        (200, {"access_log": True}),
        (200, {"default_headers": [(b"Connection", b"close")]}),
    ],
)
def test_leaves_to_the_messages_what_is_not_plain(status: int, changes: dict[str, Any]) -> None:
    ended = Ended(**changes)
    before = ended.state
    assert not ended.cycle.write_whole(status, LINES, b"12345")  # type: ignore[attr-defined]
    assert ended.state == before


def test_leaves_to_the_messages_a_client_that_is_slow_and_an_answer_that_has_begun() -> None:
    slow, begun = Ended(), Ended()
    slow.flow.write_paused = True
    begun.cycle.response_started = True
    for ended in (slow, begun):
        assert not ended.cycle.write_whole(200, LINES, b"12345")  # type: ignore[attr-defined]
        assert not ended.transport.writes


async def test_tells_nobody_who_is_gone() -> None:
    one, two = Ended(), Ended()
    one.cycle.disconnected = two.cycle.disconnected = True
    assert one.cycle.write_whole(200, LINES, b"12345")  # type: ignore[attr-defined]
    await by_messages(two, 200, b"12345")
    assert one.state == two.state


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"content-type", b"cache-control", b"x-a", b"x-b", b"set-cookie"]),
            st.binary(max_size=8).filter(lambda value: value == value.strip()),
        ),
        max_size=4,
    ),
    size=st.integers(0, 10**6),
    tag=st.text("abc019._-", min_size=1),
)
def test_renders_the_headers_of_every_answer(headers: list[tuple[bytes, bytes]], size: int, tag: str) -> None:
    headers.insert(len(headers) // 2, (b"content-length", b"%d" % size))
    lines = rendered(headers, tag, size)
    try:
        expected = b"".join(b"%b: %b\r\n" % header for header in complete(headers, tag))
    except ValueError:
        assert lines is None
    else:
        assert lines == expected


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"6")],
        [(b"content-length", b"05")],
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"Content-Length", b"5")],
        [(b"content-length", b"5"), (b"X-A", b"b")],
        [(b"content-length", b"5"), (b"x a", b"b")],
        [(b"content-length", b"5"), (b"connection", b"close")],
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5"), (b"x-request-id", b"b")],
        [(b"content-length", b"5"), (b"x-a", b"b\r\nx-b: c")],
    ],
)
def test_renders_no_headers_that_somebody_has_to_look_at(headers: list[tuple[bytes, bytes]]) -> None:
    assert rendered(headers, "r1", 5) is None


async def test_sends_messages_where_somebody_has_put_a_send_of_their_own() -> None:
    seen: list[Any] = []

    async def send(message: Any) -> None:
        seen.append(message)

    await at_once.answer(send, 200, tuple(HEADERS), b"12345")
    assert seen == [
        {"type": "http.response.start", "status": 200, "headers": HEADERS},
        {"type": "http.response.body", "body": b"12345"},
    ]
