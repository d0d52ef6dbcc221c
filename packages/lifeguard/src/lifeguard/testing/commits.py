"""A proxy that knows a COMMIT when one passes."""

import asyncio
from typing import Literal

from typing_extensions import override

from lifeguard.testing.proxy import Proxy

Fate = Literal["pass", "drop", "cut", "hold"]

# A client that waits for every answer sends each message by itself.
_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
_COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"
_CANCEL_REQUEST = b"\x04\xd2\x16\x2e"  # 1234 and 5678, after the length


class CommitProxy(Proxy):
    """What becomes of a COMMIT is `at_commit`:

    pass   nothing
    drop   the connection is cut before the server has seen it
    cut    the connection is cut after the server has answered it
    hold   the server has answered it; the answer waits for `let_go`
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.at_commit: Fate = "pass"
        self.reached = asyncio.Event()
        """The server has answered a COMMIT that is cut or held."""
        self.let_go = asyncio.Event()
        self.cancel_requests = 0

    @override
    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if data[4:8] == _CANCEL_REQUEST:
            self.cancel_requests += 1
        if data == _COMMIT and self.at_commit == "drop":
            raise ConnectionAbortedError
        if data.startswith(_COMMITTED) and self.at_commit in {"cut", "hold"}:
            self.reached.set()
            if self.at_commit == "cut":
                raise ConnectionAbortedError
            await self.let_go.wait()
        await super()._pass(data, writer)
