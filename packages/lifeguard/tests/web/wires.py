"""A client that says what it says byte by byte, and takes the answers apart."""

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from urllib.parse import urlsplit

NO_BODY = {100, 101, 204, 304}


@dataclass
class Answer:
    """One answer; its headers' names are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers.get("x-request-id", "")


async def answers_to(url: str, pieces: Iterable[bytes], *, methods: Iterable[str] = ()) -> list[Answer]:
    """All answers on one connection on which these pieces are sent, up to its end.

    `methods`: of the requests, in their order, where one is HEAD.
    """
    where = urlsplit(url)
    assert where.hostname
    loop, heard = asyncio.get_running_loop(), b""
    with socket.socket() as client:  # a stream would lose what it has heard when it can say no more
        client.setblocking(False)
        await loop.sock_connect(client, (where.hostname, where.port))
        said = asyncio.create_task(_say(client, pieces))
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(60):
                while more := await loop.sock_recv(client, 2**16):
                    heard += more
        said.cancel()
        await asyncio.wait({said})
    return list(_taken_apart(heard, iter(methods)))


async def _say(client: socket.socket, pieces: Iterable[bytes]) -> None:
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            await asyncio.get_running_loop().sock_sendall(client, piece)
            await asyncio.sleep(0)


def _taken_apart(heard: bytes, methods: Iterable[str]) -> Iterable[Answer]:
    methods = iter(methods)
    while heard:
        head, end, heard = heard.partition(b"\r\n\r\n")
        status_line, _, lines = head.partition(b"\r\n")
        assert end, head
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        status = int(status_line.split()[1])
        headers = {name.lower(): value for name, value in BytesHeaderParser().parsebytes(lines).items()}
        if status in NO_BODY or next(methods, "") == "HEAD":
            body = b""
        elif "content-length" in headers:
            size = int(headers["content-length"])
            assert len(heard) >= size, heard
            body, heard = heard[:size], heard[size:]
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                size_line, _, heard = heard.partition(b"\r\n")
                size = int(size_line, 16)
                body, heard = body + heard[:size], heard[size + 2 :]
                if size == 0:
                    break
        else:
            body, heard = heard, b""
        yield Answer(status, headers, body)
