"""Whose request it was: in every line about one, whoever refused it, as far as its proxy is believed."""

import asyncio
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.server import protocol
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from lifeguard.web.client import believe
from lifeguard.web.request_head import LONGEST_PATH
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from packages.lifeguard.tests.web import test_gate
from packages.lifeguard.tests.web.conftest import Log
from packages.lifeguard.tests.web.test_gate import saturated
from packages.lifeguard.tests.web.test_protocol import wire

SETTINGS = {**test_gate.SETTINGS, "log_level": "info", "forwarded_allow_ips": "127.0.0.1,10.0.0.0/8"}

GET = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n"


async def line_about(service: Service, log: Log, sent: bytes) -> dict[str, object]:
    """The first line after a client has sent this, and has got something for it."""
    log()
    async with wire(service) as client:
        client.send(sent)
        await client.reader.readline()
    lines: list[dict[str, object]] = []

    def told() -> list[dict[str, object]]:
        lines.extend(line for line in log() if line["event"] in {"request", "handshake"})
        return lines

    await eventually(told)
    return lines[0]


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        (b"", "127.0.0.1"),
        (b"X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7"),
        (b"X-Forwarded-For: 203.0.113.1, 192.0.2.7\r\n", "192.0.2.7"),
        (b"X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7"),
        (b"X-Forwarded-For: 203.0.113.1, 192.0.2.7, 10.1.2.3\r\n", "192.0.2.7"),
        (b"X-Forwarded-For: [2001:db8::1]:443\r\n", "2001:db8::1"),
        (b"X-Forwarded-For:\r\n", "127.0.0.1"),
        (b"X-Forwarded-For: " + b"a" * 200 + b"\r\n", "a" * 64),
        (b"Forwarded: for=192.0.2.7\r\n", "127.0.0.1"),
        (b"X-Real-IP: 192.0.2.7\r\n", "127.0.0.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
class TestOfAProxyThatIsBelieved:
    async def test_a_request(self, serving: Service, log: Log, headers: bytes, client: str) -> None:
        line = await line_about(serving, log, GET + headers + b"\r\n")
        assert (line["status"], line["client"]) == (404, client)

    async def test_what_is_no_request_once_its_head_is_there(
        self, serving: Service, log: Log, headers: bytes, client: str
    ) -> None:
        line = await line_about(serving, log, GET + headers + b"Content-Length: x\r\n\r\n")
        assert (line["status"], line["problem"]) == (400, "bad-request")
        assert line["client"] in {client, "127.0.0.1"}

    async def test_a_refusal_on_arrival_and_by_the_app(
        self, serving: Service, log: Log, headers: bytes, client: str
    ) -> None:
        log()
        async with saturated(serving), wire(serving) as sender:
            for path in (b"/items", b"/%69tems"):  # which the app must decode
                sender.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
                assert (await sender.answer())[0] == 503
        clients: Counter[str] = Counter()

        def told() -> bool:
            for line in log():
                clients.update(line.get("clients", {}))
            return clients == {client: 2}

        await eventually(told)


ADDRESSES = st.sampled_from(
    [
        "192.0.2.7",
        "10.1.2.3",
        "127.0.0.1",
        "[2001:db8::1]:443",
        "10.1.2.3:80",
        "",
        " ",
        "unix:",
        "a" * 300,
        "\xff",
    ]
)
FORWARDED = st.one_of(
    st.tuples(st.just(b"x-forwarded-for"), st.lists(ADDRESSES, max_size=3).map(", ".join)),
    st.tuples(
        st.just(b"x-forwarded-proto"), st.sampled_from(["http", "https ", "wss", "HTTPS", "ftp", "", "\xff"])
    ),
    st.tuples(st.just(b"x-forwarded-host"), st.just("elsewhere")),
)


@given(
    fields=st.lists(FORWARDED, max_size=4),
    peer=st.none() | st.sampled_from([("127.0.0.1", 5), ("10.9.9.9", 5), ("192.0.2.1", 5), ("::1", 5)]),
    trusted=st.sampled_from(["127.0.0.1", "10.0.0.0/8,127.0.0.1", "*", "", "::1,no address"]),
)
async def test_what_a_proxy_says_is_believed_as_by_uvicorns_middleware(
    fields: list[tuple[bytes, str]], peer: tuple[str, int] | None, trusted: str
) -> None:
    told: list[Any] = []

    async def note(scope: Any, *_: object) -> None:
        told.append(scope)

    headers = [(b"host", b"x"), *((name, value.encode("latin-1")) for name, value in fields)]
    scope: dict[str, Any] = {"type": "http", "scheme": "http", "client": peer, "headers": headers}
    middleware = ProxyHeadersMiddleware(note, trusted)
    await middleware({**scope}, None, None)  # type: ignore[arg-type]  # as far as it is used
    believe(middleware.trusted_hosts, scope)
    assert told == [scope]


async def test_uvicorns_middleware_is_not_asked_for_requests(
    serving: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def ask(self: ProxyHeadersMiddleware, scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["type"])
        await self.app(scope, receive, send)

    monkeypatch.setattr(ProxyHeadersMiddleware, "__call__", ask)
    assert (await serving.client.get("/healthz", headers={"X-FORWARDED-FOR": "192.0.2.7"})).status_code == 200
    assert not asked


class TestOfAnyPeer:
    """What never becomes a request: lines about it are the only way to know who sends such things."""

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * protocol.LARGEST_HEADER + b"\r\n\r\n", 431),
        ],
    )
    async def test_is_told(self, serving: Service, log: Log, sent: bytes, status: int) -> None:
        line = await line_about(serving, log, sent)
        assert (line["status"], line["client"], line["route"]) == (status, "127.0.0.1", "none")

    async def test_is_told_of_a_head_that_does_not_come(
        self, serving: Service, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "PATIENCE", 0.1)
        line = await line_about(serving, log, b"GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\nX:")
        assert (line["status"], line["client"]) == (408, "192.0.2.7")

    async def test_is_not_who_used_the_connection_before(self, serving: Service, log: Log) -> None:
        """Behind a proxy, that was somebody else."""
        async with wire(serving) as client:
            client.send(GET + b"X-Forwarded-For: 192.0.2.7\r\n\r\n")
            await client.answer()
            log()
            client.send(b"\x00\x01\r\n\r\n")
            assert (await client.answer())[0] == 400
        (line,) = [line for line in log() if line["event"] == "request"]
        assert line["client"] == "127.0.0.1"

    async def test_is_told_of_a_handshake(self, serving: Service, log: Log) -> None:
        sent = (
            b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"X-Forwarded-For: 192.0.2.7\r\n\r\n"
        )
        assert (await line_about(serving, log, sent))["client"] == "192.0.2.7"


async def test_many_clients_share_a_line_about_refusals(serving: Service, log: Log) -> None:
    log()
    async with saturated(serving):
        for number in range(12):
            await serving.client.get("/items", headers={"X-Forwarded-For": f"192.0.2.{number}"})
    lines: list[dict[str, object]] = []

    def told_of_all() -> bool:
        lines.extend(line for line in log() if "clients" in line)
        return bool(lines)

    await eventually(told_of_all)
    told = [line["clients"] for line in lines]
    assert all(isinstance(clients, dict) and len(clients) <= 10 for clients in told)


@pytest.mark.parametrize("length", [LONGEST_PATH, LONGEST_PATH + 1, 8000])
async def test_a_path_is_cut(serving: Service, log: Log, length: int) -> None:
    path = b"/" + b"a" * (length - 1)
    line = await line_about(serving, log, b"GET " + path + b"?q=secret HTTP/1.1\r\nHost: x\r\n\r\n")
    shown = str(line["path"])
    assert shown.removesuffix("...") == path[:LONGEST_PATH].decode()
    assert shown.endswith("...") is (length > LONGEST_PATH)


async def test_nobody_is_believed_who_is_not_named(serving: Service, log: Log) -> None:
    """The peer here is 127.0.0.1; another setting leaves it as it is."""
    url = urlsplit(str(serving.client.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port, local_addr=("127.0.0.2", 0))
    log()
    writer.write(GET + b"X-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()
    (line,) = [line for line in log() if line["event"] == "request"]
    assert line["client"] == "127.0.0.2"
