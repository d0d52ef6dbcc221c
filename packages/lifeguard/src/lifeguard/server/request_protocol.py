"""One request: what the parser finds in its head becomes its scope, where uvicorn's would be another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from lifeguard.server import framing
from lifeguard.server.connection import Connection
from lifeguard.server.framing import Chunked, Sized
from lifeguard.web.client import TrustedHosts, believe
from lifeguard.web.turns import RECORD, Record

if TYPE_CHECKING:
    from starlette.types import Scope


class RequestProtocol(Connection):
    def __init__(self, *args: Any, **options: Any) -> None:  # uvicorn's business
        super().__init__(*args, **options)
        self._record = Record()
        self._proxies: TrustedHosts | None = None
        """Whose word is taken. uvicorn's middleware reads the headers of each request once more for it; here
        they are read already."""
        if type(self.app) is ProxyHeadersMiddleware:
            self._proxies, self.app = self.app.trusted_hosts, self.app.app
        self._is_forwarded = False
        """Whether such a header is among those of the request that came last."""
        self._in_request = False
        """Whether its end, or that of its body, is still to come."""
        self._body: Sized | Chunked | None = None
        """What says where the body ends, while one comes."""
        self._is_answered = False
        """Whether the request that came last is: what is left of its body is ignored."""

    @override
    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._in_request = True
        self._is_answered = False

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        # As uvicorn's, but for the white space behind it, which is no part of it (RFC 9112, section 5.1).
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"expect":
            self.expect_100_continue = True  # anything else would have been refused
        self.headers.append((name, value))

    @override
    def on_headers_complete(self) -> None:
        self._await_no_more()
        if not self.url.startswith(b"/"):
            self._read_unusual_target()
        if self.expect_100_continue and (self._body is None or self.parser.get_http_version() == "1.0"):
            self.expect_100_continue = False
        headers, url, expectation = self.headers, self.url, self.expect_100_continue
        super().on_message_begin()  # which makes the scope
        self.scope["headers"] = self.headers = headers
        self.scope[RECORD] = self._record  # type: ignore[literal-required]
        if self._is_forwarded and self._proxies is not None:
            believe(self._proxies, cast("Scope", self.scope))
        self.url, self.expect_100_continue = url, expectation
        super().on_headers_complete()

    def _read_unusual_target(self) -> None:
        """Make the usual form of an absolute one, whose host counts (RFC 9112, section 3.2.2)."""
        if self.url == b"*":
            self.url = b"/*"  # where no route is: OPTIONS without a resource
            return
        self.url, host = framing.origin_form(self.url)
        self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]
