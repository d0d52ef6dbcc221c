"""One HTTP/1.1 request, asked again and again: little work for the one who asks, so that many can be asked.

No general client, because its own time would be measured with the service's: with thirty connections
httpx 0.28 took 4.6 ms of processor time for a request, this 0.1 ms. Connections are kept alive, as
browsers do. What fails is not tried again.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD_END, LINE_END = b"\r\n\r\n", b"\r\n"
WITHOUT_BODY = frozenset((204, 304))

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Asker:
    """`headers` are lines like `Accept: text/plain`; `timeout` in seconds, connecting included."""

    def __init__(
        self, method: str, url: str, headers: Sequence[str] = (), body: str = "", timeout: float = 5.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not a URL of http:// or https://: {url}")
        self._secure = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = parts.hostname, parts.port or (443 if self._secure else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        content = body.encode()
        lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}", *headers]
        if content:
            lines.append(f"Content-Length: {len(content)}")
        self._request = "\r\n".join(lines).encode() + HEAD_END + content
        self._bodiless = method == "HEAD"
        self._timeout = timeout
        self._idle: list[Connection] = []

    async def ask(self) -> str:
        """The answer's status once all of it is there, or the name of what went wrong."""
        try:
            async with asyncio.timeout(self._timeout):
                return str(await self._ask())
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            return type(error).__name__

    def close(self) -> None:
        """Close the connections that are idle."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _ask(self) -> int:
        reader, writer = self._take_idle() or await asyncio.open_connection(*self._address, ssl=self._secure)
        kept = False
        try:
            writer.write(self._request)
            status, kept = await self._read(reader)
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.transport.abort()
        return status

    def _take_idle(self) -> Connection | None:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, bool]:
        """The status, and whether the connection can be used again."""
        version, status, headers = await _read_head(reader)
        while status < 200:  # noqa: PLR2004 - interim answers
            version, status, headers = await _read_head(reader)
        kept = version == b"HTTP/1.1" and headers.get(b"connection", b"").lower() != b"close"
        if self._bodiless or status in WITHOUT_BODY:
            return status, kept
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            await _read_chunks(reader)
        elif b"content-length" in headers:
            await reader.readexactly(int(headers[b"content-length"]))
        else:
            await reader.read()
            kept = False
        return status, kept


async def _read_head(reader: asyncio.StreamReader) -> tuple[bytes, int, dict[bytes, bytes]]:
    first, *lines = (await reader.readuntil(HEAD_END)).removesuffix(HEAD_END).split(LINE_END)
    version, status = first.split(maxsplit=2)[:2]
    fields = (line.partition(b":") for line in lines)
    return version, int(status), {name.lower(): value.strip() for name, _, value in fields}


async def _read_chunks(reader: asyncio.StreamReader) -> None:
    while size := int((await reader.readuntil(LINE_END)).partition(b";")[0], 16):
        await reader.readexactly(size + len(LINE_END))
    while await reader.readuntil(LINE_END) != LINE_END:  # trailers
        pass
