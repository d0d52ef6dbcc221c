"""The recipe of tokens for passwords, with a metadata service that this test runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from lifeguard.database import Database, DatabaseUnavailable
from lifeguard.pool import PoolUnavailable
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually
from pydantic import SecretStr

from docs.cookbook.token_passwords import Settings


class Metadata:
    """Gives `token`, and notes what it was asked for."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.status = "200 OK"
        self.asked: list[str] = []

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        body = json.dumps({"access_token": self.token, "expires_in": 3599, "token_type": "Bearer"})
        writer.write(f"HTTP/1.1 {self.status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._answer, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def set_password(postgres: PostgresServer, password: str) -> None:
    async with postgres.connect() as admin:
        await admin.execute(f"ALTER ROLE by_token PASSWORD '{password}'")


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    async with postgres.connect() as admin:
        await admin.execute("DROP ROLE IF EXISTS by_token")
        await admin.execute("CREATE ROLE by_token LOGIN PASSWORD 'token-one'")
    return f"postgresql://by_token@127.0.0.1:{postgres.port}/postgres"


async def test_a_token_of_the_metadata_service_logs_in(url: str, postgres: PostgresServer) -> None:
    """It is fetched once, and again when the server refuses it: then no request has failed."""
    metadata = Metadata("token-one")
    async with metadata.serving() as where:
        settings = Settings(database_url=SecretStr(url), metadata_url=where)
        async with Database(settings) as database:
            assert await database.fetchval("SELECT session_user") == "by_token"
            assert len(metadata.asked) == 1
            assert "metadata-flavor: google" in metadata.asked[0]
            metadata.token = "token-two"
            await set_password(postgres, "token-two")
            stats = database.primary.stats
            opened = stats().opened
            await database.primary.expire_connections()
            assert await database.fetchval("SELECT session_user") == "by_token"
            await eventually(lambda: stats().opened > opened)
            assert not stats().open_failures


async def test_a_metadata_service_that_refuses_is_told_as_the_reason(url: str) -> None:
    metadata = Metadata("token-one")
    metadata.status = "403 Forbidden"
    async with metadata.serving() as where:
        settings = Settings(database_url=SecretStr(url), metadata_url=where)
        async with Database(settings) as database:
            with pytest.raises((PoolUnavailable, DatabaseUnavailable)):
                await database.fetchval("SELECT 1")
            stats = database.primary.stats()
            assert stats.fault == "password"
            assert "403 Forbidden" in str(stats.last_error)
