"""TLS as the URL asks for it, against a front that speaks it and passes on to the real server."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from lifeguard.database.connect_options import check, connect_options, dsn

from packages.lifeguard.tests.certificates import needs_openssl, self_signed
from packages.lifeguard.tests.database.conftest import settings_for

pytestmark = needs_openssl
_SSL_REQUEST = 8  # bytes


@contextlib.asynccontextmanager
async def tls_front(url: str, certificate: Path, *, direct: bool) -> AsyncIterator[str]:
    """The URL, without parameters, of a front that asks for TLS first, or waits to be asked."""
    server = urlsplit(url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    context.set_alpn_protocols(["postgresql"])

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if not direct:
                await reader.readexactly(_SSL_REQUEST)
                writer.write(b"S")
                await writer.start_tls(context)
            from_server, to_server = await asyncio.open_connection(server.hostname, server.port)
            await asyncio.gather(carry(reader, to_server), carry(from_server, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context if direct else None)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://{server.netloc.rpartition('@')[0]}@localhost:{port}{server.path}"
    finally:
        listener.close()


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of `localhost`, signed by itself."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return self_signed(tmp_path / "server.crt")


@pytest.mark.parametrize("direct", [False, True], ids=["asked for", "direct"])
@pytest.mark.parametrize(("roots", "trusted"), [("system", True), ("system", False), ("file", True)], ids=str)
async def test_the_server_is_one_that_the_roots_vouch_for(  # noqa: PLR0917 - a table
    database_url: str,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    roots: str,
    trusted: bool,
    direct: bool,
) -> None:
    if trusted and roots == "system":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # what this machine trusts
    async with tls_front(database_url, certificate, direct=direct) as url:
        root = "system" if roots == "system" else certificate
        query = f"sslmode=verify-full&sslrootcert={root}&sslnegotiation={'direct' if direct else 'postgres'}"
        settings = settings_for(f"{url}?{query}")
        check(settings)
        connecting = asyncpg.connect(dsn(settings), timeout=5, **connect_options(settings))
        if trusted:
            connection = await connecting
            assert connection._protocol.is_ssl  # the driver's only word on it
            await connection.close()
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connecting
