"""`X-Consistency-Token`: what a client gets for its writes, and what its reads see that send it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from time import time
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, WebSocket
from lifeguard.database import Position
from lifeguard.database.tokens import Tokens
from lifeguard.testing.serving import Service
from lifeguard.testing.standby import Replication
from lifeguard.testing.waiting import eventually
from lifeguard.web import (
    ConnectionDep,
    DatabaseDep,
    ReadConnectionDep,
    TransactionDep,
    problems,
    stale_if_error,
)
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from packages.lifeguard.tests import inside

TOKEN = "X-Consistency-Token"
PORT = "SELECT current_setting('port')::int"
SECRET, OLDER = "the-secret-of-all-instances", "the-secret-that-it-was"

routes = APIRouter(prefix="/test")


@routes.post("/things")
async def create(transaction: TransactionDep) -> int:
    return int(await transaction.fetchval("INSERT INTO things DEFAULT VALUES RETURNING id"))


@routes.post("/twice")
async def create_two(database: DatabaseDep) -> int:
    await database.execute("INSERT INTO things DEFAULT VALUES")
    return int(await database.fetchval("INSERT INTO things DEFAULT VALUES RETURNING id"))


@routes.post("/refused")
async def create_and_refuse(database: DatabaseDep) -> None:
    await database.execute("INSERT INTO things DEFAULT VALUES")
    raise problems.Invalid("Something else was wrong.")


@routes.post("/looked")
async def look_at_it(database: DatabaseDep) -> None:
    await database.fetchval("SELECT 1", read=True)


@routes.get("/things/{number}", dependencies=[stale_if_error(seconds=60)])
async def show(number: int, connection: ReadConnectionDep) -> dict[str, Any]:
    row = await connection.fetchrow(
        f"SELECT EXISTS (SELECT FROM things WHERE id = $1) AS found, ({PORT}) AS port", number
    )
    assert row is not None
    return dict(row)


@routes.get("/primary")
async def primary(connection: ConnectionDep) -> int:
    return int(await connection.fetchval(PORT))


@routes.websocket("/socket")
async def socket(socket: WebSocket, database: DatabaseDep) -> None:
    await socket.accept()
    await socket.send_text(str(await database.fetchval(PORT, read=True)))
    await socket.close()


@asynccontextmanager
async def served(pair: Replication, **values: object) -> AsyncIterator[Service]:
    """The service on the pair, once it reads from the standby; no read waits for it."""
    values = {
        "database_replica_url": SecretStr(pair.standby.dsn()),
        "replica_max_lag": 1000,
        "consistency_wait": 0,
        "consistency_secret": SecretStr(f"{SECRET} {OLDER}"),
        "service_name": "service",
        "breaker_reset_timeout": 10,
        **values,
    }
    async with inside.service(inside.settings_for(pair.primary.dsn(), **values), routes=routes) as running:
        database = running.state["database"]
        await eventually(lambda: all(guard.serves for guard in database.guards))
        yield running


@pytest.fixture(scope="module")
async def client(lasting_pair: Replication) -> AsyncIterator[httpx.AsyncClient]:
    async with served(lasting_pair) as running:
        yield running.client


def tokens(secret: str = SECRET) -> Tokens:
    return Tokens([secret], service="service", database="")


def far_away(**changes: float) -> Position:
    return Position(1, 2**40, time())._replace(**changes)  # type: ignore[arg-type]  # of two types


async def created(client: httpx.AsyncClient, path: str = "things") -> tuple[int, str]:
    answer = await client.post(f"/test/{path}")
    assert answer.status_code == 200
    return answer.json(), answer.headers[TOKEN]


async def shown(client: httpx.AsyncClient, number: int, token: str | None) -> dict[str, object]:
    answer = await client.get(f"/test/things/{number}", headers={TOKEN: token} if token else {})
    assert answer.status_code == 200
    found: dict[str, object] = answer.json()
    return found


async def test_a_read_that_sends_the_token_of_a_write_sees_it(
    replicated: Replication, client: httpx.AsyncClient
) -> None:
    await replicated.replay(paused=True)
    number, token = await created(client)
    assert await shown(client, number, None) == {"found": False, "port": replicated.standby.port}
    assert await shown(client, number, token) == {"found": True, "port": replicated.primary.port}
    await replicated.replay(paused=False)
    await replicated.caught_up()
    assert await shown(client, number, token) == {"found": True, "port": replicated.standby.port}


async def test_the_token_is_that_of_the_last_write(
    replicated: Replication, client: httpx.AsyncClient
) -> None:
    await replicated.replay(paused=True)
    number, token = await created(client, "twice")
    assert (await shown(client, number, token))["found"]


async def test_an_error_after_a_write_has_its_token_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("/test/refused")
    assert answer.status_code == 422
    assert tokens().read(answer.headers[TOKEN]).is_known


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "looked"), ("GET", "primary"), ("GET", "things/1"), ("GET", "nowhere")]
)
async def test_what_writes_nothing_gives_none(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, f"/test/{path}", headers={TOKEN: (await created(client))[1]})
    assert TOKEN not in answer.headers


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "A" * 44,
        "A" * 43 + "=",
        "A" * 8000,
        "\xe9" * 44,
        f"{tokens().write(far_away())},{tokens().write(far_away())}",
        tokens("the secret of somebody else").write(far_away()),
        Tokens([SECRET], service="another", database="").write(far_away()),
    ],
    ids=["empty", "short", "unsigned", "padded", "long", "no ASCII", "list", "forged", "foreign"],
)
async def test_what_is_no_token_of_this_service_is_a_400(client: httpx.AsyncClient, token: str) -> None:
    answer = await client.get("/test/things/1", headers={TOKEN.encode(): token.encode("latin-1")})
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/invalid-consistency-token"
    assert len(answer.content) < 1000


async def test_two_tokens_are_a_400(client: httpx.AsyncClient) -> None:
    token = tokens().write(far_away())
    answer = await client.get("/test/things/1", headers=[(TOKEN, token), (TOKEN, token)])
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")


async def test_a_token_that_no_write_can_have_costs_the_primary_nothing(
    replicated: Replication, client: httpx.AsyncClient
) -> None:
    for position in (far_away(), far_away(lsn=2**63), far_away(timeline=0, lsn=0, noted_at=1.0)):
        shown_there = await shown(client, 1, tokens().write(position))
        assert shown_there["port"] == replicated.standby.port


async def test_tokens_by_the_secret_before_are_still_read(client: httpx.AsyncClient) -> None:
    assert await shown(client, 1, tokens(OLDER).write(far_away(lsn=1)))


async def test_a_client_that_has_a_token_is_not_given_an_older_answer(replicated: Replication) -> None:
    async with served(replicated) as running:
        number, token = await created(running.client)
        await replicated.caught_up()
        assert (await shown(running.client, number, None))["found"]
        for guard in running.state["database"].guards:
            await guard.pool.close()
        path = f"/test/things/{number}"
        older = await running.client.get(path)
        assert (older.status_code, "Age" in older.headers) == (200, True)
        answer = await running.client.get(path, headers={TOKEN: token})
        assert answer.status_code == 503


async def test_a_cookie_keeps_a_browsers_token(replicated: Replication) -> None:
    async with served(replicated, consistency_cookie="seen", app_env="production") as running:
        await replicated.replay(paused=True)
        answer = await running.client.post("/test/things")
        cookie = SimpleCookie(answer.headers["Set-Cookie"])["seen"]
        assert cookie.value == answer.headers[TOKEN]
        assert (cookie["path"], cookie["samesite"], cookie["max-age"]) == ("/", "Lax", "4600")
        assert cookie["httponly"]
        assert cookie["secure"]
        path = f"/test/things/{answer.json()}"
        running.client.cookies.clear()
        seen = await running.client.get(path, headers={"Cookie": f"a=b; seen={cookie.value}; c"})
        assert seen.json() == {"found": True, "port": replicated.primary.port}
        for unusable in ("seen=x", f"seen={'A' * 44}", "seen", "other=x"):
            answer = await running.client.get(path, headers={"Cookie": unusable})
            assert answer.json() == {"found": False, "port": replicated.standby.port}


async def test_a_websocket_sees_what_its_handshake_names(
    replicated: Replication, client: httpx.AsyncClient
) -> None:
    await replicated.replay(paused=True)
    url = f"{str(client.base_url).replace('http', 'ws', 1)}/test/socket"
    _, token = await created(client)
    async with connect(url, additional_headers={TOKEN: token}, proxy=None) as socket:
        assert await socket.recv() == str(replicated.primary.port)
    with pytest.raises(InvalidStatus, match="400"):
        await connect(url, additional_headers={TOKEN: "garbage"}, proxy=None)


async def test_without_a_replica_there_are_no_tokens(replicated: Replication) -> None:
    settings = inside.settings_for(replicated.primary.dsn())
    async with inside.service(settings, routes=routes) as running:
        answer = await running.client.post("/test/things", headers={TOKEN: "anything"})
        assert answer.status_code == 200
        assert TOKEN not in answer.headers


async def test_openapi_names_the_header_where_it_means_something(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    written = paths["/test/things"]["post"]["responses"]["200"]
    assert TOKEN in written["headers"]
    read = paths["/test/things/{number}"]["get"]
    assert [one["required"] for one in read["parameters"] if one["name"] == TOKEN] == [False]
    assert "invalid-consistency-token" in str(read["responses"]["400"])
    assert TOKEN not in str(paths["/healthz"])
