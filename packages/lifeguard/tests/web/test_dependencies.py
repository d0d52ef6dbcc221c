"""What endpoints ask for: given for the endpoint's time only, and committed before anybody is told."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from lifeguard.database import Database
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from lifeguard.web import ConnectionDep, DatabaseDep, ReadConnectionDep, TransactionDep, dependencies

from packages.lifeguard.tests.inside import settings_for
from packages.lifeguard.tests.web.asgi import Asked, ask

routes = APIRouter(prefix="/test")
used_afterwards: list[int] = []


@routes.get("/read")
async def read(connection: ReadConnectionDep) -> int:
    number: int = await connection.fetchval("SELECT 1")
    return number


@routes.get("/write")
async def write(connection: ReadConnectionDep) -> int | None:
    """Writes where it says that it reads, which no type sees."""
    number: int | None = await connection.fetchval("CREATE TABLE read ()")
    return number


@routes.get("/background")
async def background(connection: ConnectionDep, database: DatabaseDep, tasks: BackgroundTasks) -> None:
    await connection.execute("SELECT 1")
    tasks.add_task(lambda: used_afterwards.append(database.primary.stats().used))


@routes.get("/stream")
async def stream(connection: ConnectionDep, database: DatabaseDep) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        yield str(database.primary.stats().used)

    return StreamingResponse(parts())


@routes.post("/table/{name}")
async def table(name: str, transaction: TransactionDep) -> None:
    await transaction.execute(f"CREATE TABLE {name} ()")


@routes.post("/table/{name}/fails")
async def failing_table(name: str, transaction: TransactionDep) -> None:
    await transaction.execute(f"CREATE TABLE {name} ()")
    raise ZeroDivisionError


@routes.post("/deferred")
async def deferred(transaction: TransactionDep) -> str:
    """Violates a constraint that is looked at when it commits."""
    await transaction.execute("CREATE TABLE parent (id int PRIMARY KEY)")
    await transaction.execute(
        "CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
    )
    await transaction.execute("INSERT INTO child VALUES (1)")
    return "done"


async def exists(serving: Service, name: str) -> bool:
    async with serving.state["database"].read() as connection:
        return await connection.fetchval("SELECT to_regclass($1)", name) is not None


async def test_a_connection_is_given_back_when_the_endpoint_has_returned(serving: Service) -> None:
    assert (await serving.client.get("/test/read")).json() == 1
    await serving.client.get("/test/background")
    await eventually(lambda: used_afterwards)
    assert used_afterwards == [0]
    assert (await serving.client.get("/test/stream")).text == "0"


async def test_a_write_by_what_reads_is_a_mistake_of_ours_and_is_not_done(serving: Service) -> None:
    answer = await serving.client.get("/test/write")
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal")
    assert not await exists(serving, "read")


async def test_a_transaction_commits(serving: Service) -> None:
    assert (await serving.client.post("/test/table/committed")).status_code == 200
    assert await exists(serving, "committed")


async def test_a_transaction_is_undone_when_the_endpoint_raises(serving: Service) -> None:
    assert (await serving.client.post("/test/table/undone/fails")).status_code == 500
    assert not await exists(serving, "undone")


async def test_nobody_is_told_of_what_then_fails_to_commit(serving: Service) -> None:
    answer = await serving.client.post("/test/deferred")
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal")
    assert not await exists(serving, "child")


async def test_a_client_is_not_shown_what_the_server_says(serving: Service) -> None:
    await serving.client.post("/test/table/twice")
    answer = await serving.client.post("/test/table/twice")
    assert answer.status_code == 500
    assert asyncpg.DuplicateTableError.__name__ not in answer.text
    assert "twice" not in answer.text


async def test_what_lends_follows_an_override_of_the_database(serving: Service, module_database: str) -> None:
    """A test that gives its endpoints another database gives them its connections, too."""
    settings = settings_for(module_database, service_name="another")

    async def another(name: str = "another") -> AsyncIterator[Database]:
        async with Database(settings, name=name) as database:
            yield database

    serving.app.dependency_overrides[dependencies.database] = another
    try:
        answer = await serving.client.get("/test/read")
        created = await serving.client.post("/test/table/overridden")
    finally:
        serving.app.dependency_overrides.clear()
    assert (answer.json(), created.status_code) == (1, 200)
    assert await exists(serving, "overridden")


async def test_where_fastapi_keeps_no_stack_generators_lend_the_same(serving: Service) -> None:
    kinds = ((dependencies._reading, "read"), (dependencies._in_transaction, "all"))
    app = FastAPI()
    for block, name in kinds:
        lends = dependencies._lent(name, block, at_once=False)

        async def endpoint(connection: Annotated[Any, Depends(lends, scope="function")]) -> int:
            number: int = await connection.fetchval("SELECT 2")
            return number

        app.add_api_route(f"/{name}", endpoint)
    for _, name in kinds:
        answered = await ask(app, Asked("GET", f"/{name}"), serving.state)
        assert (answered.status, answered.body) == (200, b"2")
    assert serving.state["database"].primary.stats().used == 0
