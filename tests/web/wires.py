"""A client that says what it says byte by byte, and takes the answers apart."""

import asyncio
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
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        said = asyncio.create_task(_say(writer, pieces))
        try:
            async with asyncio.timeout(10):
                heard = await reader.read()
        except ConnectionResetError:  # by then all that was said to it has been read, or nobody wants it
            heard = b""
        said.cancel()
        await asyncio.wait({said})
        return list(_taken_apart(heard, iter(methods)))
    finally:
        writer.close()


async def _say(writer: asyncio.StreamWriter, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
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
