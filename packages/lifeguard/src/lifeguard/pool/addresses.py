"""The addresses behind a host's name, and how to reach one of them under that name."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

# A question to the resolver that has no answer yet is put once more after so many seconds, times one and an
# eighth of the questions that are open. A name that nobody knows for the moment, as that of a container that
# is down, may hang for 10 s (resolv.conf's timeout times its attempts, for each of its servers); another
# question is answered as soon as the name is back.
ASK_AGAIN = 0.25
_OPEN_THAT_DOUBLE = 8
# Each is a thread, which nobody can end; above this many each who asks has one.
MOST_OPEN = 64

_questions: set[threading.Thread] = set()
"""Those that the system's resolver has not answered yet, whether or not somebody still wants to know."""


def open_questions() -> int:
    """How many threads wait for the system's resolver now."""
    return len(_questions)


def is_name(host: str) -> bool:
    """Whether the host has to be resolved: it is neither an address nor a socket's directory."""
    if host.startswith("/"):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name in the resolver's order (RFC 6724): the first answer to one or more questions.

    Raises OSError when it has none; the caller bounds it.
    """
    questions: set[asyncio.Future[list[tuple[Any, ...]]]] = set()
    try:
        while True:
            if not questions or open_questions() < MOST_OPEN:
                questions.add(asyncio.ensure_future(lookup(host, port)))
            patience = ASK_AGAIN * (1 + open_questions() / _OPEN_THAT_DOUBLE)
            answered, _ = await asyncio.wait(questions, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if answered:
                answer = min(answered, key=lambda question: question.exception() is not None)
                return list(dict.fromkeys(str(address[0]) for *_, address in answer.result()))
    finally:
        for question in questions:
            if not question.cancel():
                question.exception()  # nobody else will ask for it


def lookup(host: str, port: int) -> Awaitable[list[tuple[Any, ...]]]:
    """What the system's resolver says, in a thread of its own.

    Not one of the event loop's: of these there are few, which a resolver that does not answer would take
    from everybody else, and the end of the process waits for them.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[tuple[Any, ...]]] = loop.create_future()

    def tell(found: list[tuple[Any, ...]] | Exception) -> None:
        if answer.done():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def ask() -> None:
        found: list[Any] | Exception
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked
            found = error
        _questions.discard(thread)
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(tell, found)

    thread = threading.Thread(target=ask, name=f"resolve {host}", daemon=True)
    _questions.add(thread)
    try:
        thread.start()
    except RuntimeError as error:  # there are too many already
        _questions.discard(thread)
        raise OSError(f"{host} could not be looked up: {error}") from error
    return answer


class RedirectedLoop:
    """The running event loop, whose connections to a host go to one of its addresses.

    asyncpg connects to the name it verifies the certificate against, and resolves it by itself. Given
    to `asyncpg.connect(loop=...)` this keeps the two apart: the name stays the server's, in TLS too.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, address: str, note_reached: Callable[[str], None]
    ) -> None:
        """`note_reached` gets the address once somebody there has taken the connection."""
        self._loop = loop
        self._address = address
        self._note_reached = note_reached
        self.create_future = loop.create_future  # what every statement asks for, without the way around
        self.call_later = loop.call_later

    async def create_connection(self, factory: Any, host: str, port: int, **options: Any) -> Any:
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        made = await self._loop.create_connection(factory, self._address, port, **options)
        self._note_reached(self._address)
        return made

    def __getattr__(self, name: str) -> Any:
        """Everything else is the loop's own."""
        return getattr(self._loop, name)
