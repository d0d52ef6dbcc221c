"""A TCP proxy before a server, which can be slow, silent or rude."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

HOST = "127.0.0.1"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, without waiting


class Link:
    """One connection through the proxy. Bytes wait while the gate of their direction is closed."""

    def __init__(self, to_client: asyncio.StreamWriter, gates_open: bool) -> None:
        self.to_client = to_client
        self.to_server: asyncio.StreamWriter | None = None
        self.questions = asyncio.Event()
        self.answers = asyncio.Event()
        self.asked = 0
        """Pieces of data that came from the client: an idle session asks nothing."""
        if gates_open:
            self.resume()

    def silence(self, *, questions: bool = True, answers: bool = True) -> None:
        """Let nothing through in these directions, and say nothing of it."""
        if questions:
            self.questions.clear()
        if answers:
            self.answers.clear()

    def resume(self) -> None:
        self.questions.set()
        self.answers.set()

    async def say(self, data: bytes) -> None:
        """Tell the client what the server has not said."""
        self.to_client.write(data)
        await self.to_client.drain()

    def reset(self) -> None:
        """Close both sides with RST."""
        for writer in (self.to_client, self.to_server):
            if writer is not None:
                sock: socket.socket | None = writer.get_extra_info("socket")  # None: closed already
                if sock is not None:
                    with contextlib.suppress(
                        OSError, ValueError
                    ):  # uvloop's socket has no descriptor any more
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                writer.transport.abort()
        self.resume()


class Proxy:
    """`dsn` is the server's address with the proxy's host and port in it.

    latency      seconds that each piece of data takes in either direction
    slice_size   most bytes passed on at once; None is as they come
    hold_new     new connections are accepted, and nothing goes through them
    refuse_new   new connections are accepted and closed
    """

    def __init__(self, dsn: str, port: int = 0, host: str = HOST) -> None:
        self._server = urlsplit(dsn)
        self._tasks: set[asyncio.Task[None]] = set()
        self.dsn = dsn
        self.host = host
        self.port = port
        self.latency = 0.0
        self.slice_size: int | None = None
        self.hold_new = False
        self.refuse_new = False
        self._listener: asyncio.Server | None = None
        self.links: list[Link] = []
        """Those that stand, the oldest first."""
        self.accepted = 0
        """Connections since the beginning."""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["Proxy"]:
        self._listener = await asyncio.start_server(self._serve_client, self.host, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        login = self._server.netloc.rpartition("@")[0]
        proxied = self._server._replace(netloc=f"{login}@{self.host}:{self.port}", query="sslmode=disable")
        self.dsn = proxied.geturl()
        try:
            yield self
        finally:
            self._listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def lead_to(self, dsn: str) -> None:
        """Have new connections go to another server, as a name that has moved; those that stand stay."""
        self._server = urlsplit(dsn)

    @property
    def asked(self) -> int:
        """Pieces of data that came from the clients of the links that stand."""
        return sum(link.asked for link in self.links)

    def link_from(self, port: int) -> Link:
        """The link whose client the server sees at this port (`inet_client_port()`)."""
        for link in self.links:
            if link.to_server is not None and link.to_server.get_extra_info("sockname")[1] == port:
                return link
        raise LookupError(f"no link from port {port}")

    def silence(self, *, questions: bool = True, answers: bool = True) -> None:
        """Let nothing more through the links that stand; new ones are not concerned."""
        for link in self.links:
            link.silence(questions=questions, answers=answers)

    def resume(self) -> None:
        """Let everything through again."""
        self.hold_new = self.refuse_new = False
        for link in self.links:
            link.resume()

    def reset_links(self) -> None:
        for link in tuple(self.links):
            link.reset()

    @contextlib.contextmanager
    def swallow_new(self) -> Iterator[None]:
        """In the block new connections vanish, as behind a firewall that lost its rules, and afterwards they
        are refused; those that stand go on."""
        assert self._listener is not None
        self._listener.close()
        with full_backlog(self.port):
            yield

    async def _serve_client(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        link = Link(to_client, gates_open=not self.hold_new)
        self.links.append(link)
        try:
            if not self.refuse_new:
                await self._join(link, from_client)
        except (OSError, asyncio.CancelledError):
            pass  # one side has gone, or the test is over
        finally:
            self.links.remove(link)
            to_client.close()
            if link.to_server is not None:
                link.to_server.close()
            self._tasks.discard(task)

    async def _join(self, link: Link, from_client: asyncio.StreamReader) -> None:
        from_server, link.to_server = await asyncio.open_connection(self._server.hostname, self._server.port)
        ways = [
            asyncio.create_task(self._pass_questions(from_client, link)),
            asyncio.create_task(self._pass_answers(from_server, link)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_questions(self, client: asyncio.StreamReader, link: Link) -> None:
        assert link.to_server is not None
        while data := await client.read(65536):
            link.asked += 1
            await link.questions.wait()
            await self._pass(data, link.to_server)
        await link.questions.wait()  # the end of the stream is as silent as the rest

    async def _pass_answers(self, server: asyncio.StreamReader, link: Link) -> None:
        while data := await server.read(65536):
            await link.answers.wait()
            await self._pass(data, link.to_client)
        await link.answers.wait()

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.latency:
            await asyncio.sleep(self.latency)
        size = self.slice_size or len(data)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            if self.slice_size:
                await asyncio.sleep(0)


@contextlib.contextmanager
def full_backlog(port: int = 0, host: str = HOST) -> Iterator[int]:
    """A port whose listener accepts nobody and has no room left: SYNs vanish, as in a black hole."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            queued = sockets.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex((host, port))
        yield port
