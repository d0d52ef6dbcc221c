"""In which lane a request borrows, with which priority, and what nobody outside can make of that."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, Request, WebSocket
from lifeguard.database import CallScope, call_scope
from lifeguard.pool import OutsideLane, Pool
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import DatabaseDep, ReadConnectionDep, TransactionDep, lane, stale_if_error
from lifeguard.web.lanes import LONGEST_NAME, LanesDoNotFit
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from websockets.asyncio.client import connect

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.web.conftest import Log

Where = tuple[object, str]
"""A lane and a priority."""


def tenant(request: Request) -> str | int | UUID | None:
    """Whatever a test asks for: as a header, in the query or in the path."""
    told = {**request.headers, **request.query_params, **request.path_params}
    match told.get("gives"):
        case "error":
            raise LookupError("no such tenant")
        case "list":
            return ["a", "b"]  # type: ignore[return-value]  # what is tested
        case "coroutine":
            return asyncio.sleep(0)  # type: ignore[return-value]  # what is tested
        case "body":
            return str(request.body().send(None))
        case "uuid":
            return UUID(int=7)
    return told.get("tenant")


routes = APIRouter(prefix="/t")
tenants = APIRouter(prefix="/tenants", dependencies=[lane("ours", of=tenant, priority="critical")])
grouped = APIRouter()
nameless = APIRouter(prefix="/nameless", dependencies=[lane(of=tenant)])
mounted = FastAPI(openapi_url=None)
by_others = FastAPI(openapi_url=None)


async def read(database: DatabaseDep) -> None:
    async with database.read():
        pass


routes.add_api_route("/plain/{item}", read, methods=["GET", "POST", "PUT", "DELETE", "PROPFIND"])
routes.add_api_route("/number/{item:int}", read)
routes.add_api_route("/stale", read, dependencies=[stale_if_error(seconds=60)])
routes.add_api_route("/critical", read, dependencies=[lane(priority="critical")])
routes.add_api_route("/background", read, dependencies=[lane(priority="background")])
routes.add_api_route("/own", read, dependencies=[lane("own", at_most=2, at_least=1, weight=2)])
routes.add_api_route("/own/limits", read, dependencies=[lane(at_most=3)])
grouped.add_api_route("/one", read)
grouped.add_api_route("/two", read, methods=["POST"])
grouped.add_api_route("/lower", read, dependencies=[lane(priority="background")])
grouped.add_api_route("/away", read, dependencies=[lane("away")])
routes.include_router(
    grouped, prefix="/grouped", dependencies=[lane("group", at_most=4, priority="critical")]
)
tenants.add_api_route("/by/{tenant}", read)
tenants.add_api_route("/item/{item:int}", read)
nameless.add_api_route("/item", read)
routes.include_router(tenants)
routes.include_router(nameless)
mounted.add_api_route("/inner/{item}", read)
mounted.add_api_route("/grouped", read, dependencies=[lane("mounted")])


async def anonymous(request: Request) -> JSONResponse:
    """No route of FastAPI's: nobody knows what it needs."""
    async with request.app.state.database.connection():
        return JSONResponse({})


async def foreign(scope: Any, receive: Any, send: Any) -> None:
    async with by_others.state.database.connection():
        await JSONResponse({})(scope, receive, send)


@routes.get("/transaction")
async def writes(transaction: TransactionDep) -> None: ...


@routes.get("/dependency")
async def reads(connection: ReadConnectionDep) -> None: ...


@routes.get("/named")
async def named(database: DatabaseDep) -> None:
    """All ways to borrow, in a lane that is named."""
    async with database.read(lane="mine", priority="critical"):
        pass
    async with database.connection(lane="mine", priority="critical"):
        pass
    async with database.transaction(lane="mine", priority="critical"):
        pass
    await database.run_in_transaction(nothing, lane="mine", priority="critical")


@routes.get("/statements")
async def statements(database: DatabaseDep) -> None:
    await database.fetch("SELECT 1")
    await database.fetchrow("SELECT 1", read=True)
    await database.fetchval("SELECT 1")
    await database.execute("SELECT 1")
    await database.run_in_transaction(nothing)


@routes.post("/later")
async def later(database: DatabaseDep, after: BackgroundTasks) -> None:
    await read(database)
    after.add_task(read, database)


@tenants.post("/later")
async def tenants_later(database: DatabaseDep, after: BackgroundTasks) -> None:
    await later(database, after)


@routes.websocket("/socket/{room}")
async def socket(socket: WebSocket, database: DatabaseDep) -> None:
    await socket.accept()
    await read(database)
    await socket.send_text("done")


async def nothing(_: object) -> None: ...


def prepare(app: FastAPI) -> None:
    app.state.database = by_others.state.database = app.parts["database"]  # type: ignore[attr-defined]  # Service
    app.router.routes += [
        Route("/test/any", anonymous, methods=None),
        Mount("/test/app/{shop}", mounted),
        Mount("/test/foreign", foreign),
    ]


@pytest.fixture(scope="module")
async def serving(module_database: str) -> AsyncIterator[Service]:
    settings = settings_for(module_database, database_replica_url=module_database, pool_max_size=5)
    async with service(settings, routes=routes, prepare=prepare) as running:
        await until_ready(running)
        await eventually(lambda: running.state["database"].guards[1].serves)
        yield running


@pytest.fixture
def borrowed(monkeypatch: pytest.MonkeyPatch) -> list[Where]:
    """Where connections were borrowed, one after the other."""
    seen: list[Where] = []
    acquire = Pool.acquire

    def noting(self: Pool, **how: Any) -> Any:
        if how.get("lane", "breaker") not in {"breaker", "readiness"}:  # nor the pools' own
            seen.append((how["lane"], how["priority"]))
        return acquire(self, **how)

    monkeypatch.setattr(Pool, "acquire", noting)
    return seen


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ("GET /t/plain/1", ("GET /t/plain/{item}", "normal")),
        ("HEAD /t/plain/2", ("GET /t/plain/{item}", "normal")),
        ("POST /t/plain/1", ("POST /t/plain/{item}", "normal")),
        ("PUT /t/plain/1", ("PUT /t/plain/{item}", "normal")),
        ("PROPFIND /t/plain/1", ("OTHER /t/plain/{item}", "normal")),
        ("GET /t/stale", ("GET /t/stale", "normal")),
        ("GET /t/critical", ("GET /t/critical", "critical")),
        ("GET /t/background", ("GET /t/background", "background")),
        ("GET /t/own", ("own", "normal")),
        ("GET /t/own/limits", ("GET /t/own/limits", "normal")),
        ("GET /t/grouped/one", ("group", "critical")),
        ("POST /t/grouped/two", ("group", "critical")),
        ("GET /t/grouped/lower", ("group", "background")),
        ("GET /t/grouped/away", ("away", "critical")),
        ("GET /t/transaction", ("GET /t/transaction", "normal")),
        ("GET /t/dependency", ("GET /t/dependency", "normal")),
        ("GET /t/tenants/by/anna", (OutsideLane("ours/anna"), "critical")),
        ("GET /t/tenants/item/7?tenant=bert", (OutsideLane("ours/bert"), "critical")),
        ("GET /t/tenants/item/7", ("ours", "critical")),
        ("GET /t/tenants/item/7?gives=uuid", (OutsideLane(f"ours/{UUID(int=7)}"), "critical")),
        ("GET /test/app/x/inner/1", ("GET /test/app/{shop}/inner/{item}", "normal")),
        ("GET /test/app/x/grouped", ("mounted", "normal")),
        ("GET /test/any", ("GET /test/any", "normal")),
        ("GET /test/foreign/x/y", ("GET /test/foreign", "normal")),
        ("POST /test/foreign/z", ("POST /test/foreign", "normal")),
    ],
)
async def test_a_request_borrows_in_the_lane_of_its_route(
    serving: Service, borrowed: list[Where], asked: str, where: Where
) -> None:
    method, path = asked.split()
    answer = await serving.client.request(method, path)
    assert answer.is_success, answer.text
    assert borrowed == [where]


async def test_all_ways_to_borrow_take_the_requests_lane_unless_one_is_named(
    serving: Service, borrowed: list[Where]
) -> None:
    await serving.client.get("/t/statements")
    assert borrowed == [("GET /t/statements", "normal")] * 5
    borrowed.clear()
    await serving.client.get("/t/named")
    assert borrowed == [("mine", "critical")] * 4


@pytest.mark.parametrize(
    ("path", "during", "afterwards"),
    [
        ("/t/later", "POST /t/later", "after POST /t/later"),
        ("/t/tenants/later", "ours", "after ours"),
        ("/t/tenants/later?tenant=eve", OutsideLane("ours/eve"), OutsideLane("after ours/eve")),
    ],
)
async def test_work_after_the_answer_has_a_lane_of_its_own_behind_all_that_somebody_waits_for(
    serving: Service, borrowed: list[Where], path: str, during: object, afterwards: object
) -> None:
    await serving.client.post(path)
    await eventually(lambda: len(borrowed) == 2)
    priority = "critical" if "tenants" in path else "normal"
    assert borrowed == [(during, priority), (afterwards, "background")]


async def test_what_belongs_to_no_request_is_background(serving: Service, borrowed: list[Where]) -> None:
    database = serving.state["database"]
    await read(database)
    token = call_scope.set(CallScope("job"))
    await read(database)
    call_scope.set(CallScope("job", lane="nightly", priority="normal"))
    await read(database)
    call_scope.reset(token)
    assert borrowed == [("background", "background")] * 2 + [("nightly", "normal")]


async def test_a_socket_borrows_in_the_lane_of_its_route(serving: Service, borrowed: list[Where]) -> None:
    url = str(serving.client.base_url).replace("http", "ws", 1)
    for headers, priority in (({}, "normal"), ({"X-Request-Priority": "background"}, "background")):
        async with connect(f"{url}/t/socket/1", additional_headers=headers, proxy=None) as client:
            await client.recv()
        assert borrowed.pop() == ("WEBSOCKET /t/socket/{room}", priority)


class TestTheHeader:
    @pytest.mark.parametrize(
        ("path", "said", "counts"),
        [
            ("/t/critical", "critical", "critical"),
            ("/t/critical", "normal", "normal"),
            ("/t/critical", "background", "background"),
            ("/t/stale", "critical", "normal"),
            ("/t/stale", "normal", "normal"),
            ("/t/stale", "background", "background"),
            ("/t/background", "critical", "background"),
            ("/t/background", "normal", "background"),
            ("/t/tenants/by/a", "normal", "normal"),
        ],
    )
    async def test_lowers_a_priority_and_never_raises_it(
        self, serving: Service, borrowed: list[Where], path: str, said: str, counts: str
    ) -> None:
        await serving.client.get(path, headers={"X-Request-Priority": said})
        assert [priority for _, priority in borrowed] == [counts]

    @pytest.mark.parametrize(
        "said", [b"", b"high", b"Critical", b"critical;q=1", b"\xff\xfe", b"normal, normal"]
    )
    async def test_that_is_none_is_refused(self, serving: Service, said: bytes) -> None:
        answer = await serving.client.get("/t/stale", headers={b"X-Request-Priority": said})
        assert answer.status_code == httpx.codes.BAD_REQUEST
        assert answer.json()["detail"].endswith("critical, normal, background.")

    async def test_that_is_there_twice_is_refused(self, serving: Service) -> None:
        twice = [("X-Request-Priority", "background"), ("X-Request-Priority", "critical")]
        answer = await serving.client.get("/t/stale", headers=twice)
        assert answer.status_code == httpx.codes.BAD_REQUEST

    async def test_that_is_none_is_refused_in_a_handshake(self, serving: Service) -> None:
        asks = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        headers = {**asks, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "X-Request-Priority": "high"}
        answer = await serving.client.get("/t/socket/1", headers=headers)
        assert answer.status_code == httpx.codes.BAD_REQUEST


class TestNamesFromOutside:
    @pytest.mark.parametrize(
        ("gives", "error"), [("error", "LookupError"), ("list", "TypeError"), ("coroutine", "TypeError")]
    )
    async def test_that_are_none_leave_the_request_where_it_would_be_without(
        self, serving: Service, borrowed: list[Where], log: Log, gives: str, error: str
    ) -> None:
        serving.state["gate"].lanes._reported.clear()
        log()
        for _ in range(20):
            assert (await serving.client.get(f"/t/tenants/item/7?gives={gives}")).is_success
        assert set(borrowed) == {("ours", "critical")}
        (told,) = [line for line in log() if line["event"] == "lane_not_found"]
        assert told["route"] == "/t/tenants/item/{item:int}"
        assert error in told["exception"]

    @pytest.mark.parametrize("name", ["GET /t/stale", "after bob", "other", "background", "own"])
    async def test_are_nobody_elses(self, serving: Service, borrowed: list[Where], name: str) -> None:
        await serving.client.get("/t/nameless/item", params={"tenant": name})
        assert borrowed == [(OutsideLane(f"tenant/{name}"), "normal")]

    async def test_are_asked_for_of_a_path_that_cannot_be_read(
        self, serving: Service, borrowed: list[Where], log: Log
    ) -> None:
        log()
        for path in ("/t/tenants/item", "/t/number"):
            answer = await serving.client.get(f"{path}/{'9' * 5000}")
            assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")
        assert not borrowed
        assert {line["event"] for line in log()} <= {"request"}

    async def test_cannot_come_from_a_body(self, serving: Service, borrowed: list[Where]) -> None:
        assert (await serving.client.get("/t/tenants/item/7?gives=body")).is_success
        assert borrowed == [("ours", "critical")]

    async def test_are_bounded_and_fit_for_a_log_line(self, serving: Service, borrowed: list[Where]) -> None:
        names = ["x" * 500, "x" * 499 + "y", "a\nb\x1b[2J", "\u00ff\u202e\u0000"]
        for name in names:
            await serving.client.get("/t/tenants/item/7", params={"tenant": name})
        lanes = [str(where) for where, _ in borrowed]
        assert len(set(lanes)) == len(names)
        assert all(name.isprintable() and len(name) <= len("ours/") + LONGEST_NAME for name in lanes)

    async def test_leave_nothing_behind_in_the_web_layer(self, serving: Service) -> None:
        lanes, routing = serving.state["gate"].lanes, serving.state["gate"].routing
        scope = {"type": "http", "method": "GET", "headers": [], "query_string": b"", "root_path": ""}
        served = routing.find({**scope, "path": "/t/tenants/by/1"})
        assert served
        left = set()
        for number in range(1000):
            path = f"/t/tenants/by/{number}"
            lanes.place(served, "GET", None, {**scope, "path": path, "raw_path": path.encode()})
            left.add((len(lanes._limits), len(lanes._reported), len(served.noted)))
        assert len(left) == 1  # nothing but what the first has left


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/t/plain/1", {}),
        ("/t/grouped/one", {"X-Request-Priority": "background"}),
        ("/t/tenants/by/anna", {}),
        ("/t/tenants/item/7?tenant=bert", {"X-Request-Priority": "normal"}),
        ("/t/tenants/item/7", {"Tenant": "carl"}),
    ],
)
async def test_the_gate_judges_on_arrival_and_later_by_what_the_request_borrows_in(
    serving: Service,
    borrowed: list[Where],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    headers: dict[str, str],
) -> None:
    judged: list[Where] = []
    try_shed = Pool.try_shed

    def noting(self: Pool, *args: Any, **how: Any) -> float | None:
        judged.append((how["lane"], how["priority"]))
        return try_shed(self, *args, **how)

    monkeypatch.setattr(Pool, "try_shed", noting)
    monkeypatch.setattr(Pool, "get_idle_size", lambda _: 0)  # else a tenant is asked for later
    await serving.client.get(path, headers=headers)
    assert judged == borrowed * 2


class TestLimits:
    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object, dict[str, Any]]]:
        """What the pools are told."""
        told: list[tuple[str, object, dict[str, Any]]] = []
        set_lane = Pool.set_lane

        def noting(self: Pool, lane: object, **limits: Any) -> None:
            told.append((self.name, lane, limits))
            set_lane(self, lane, **limits)

        monkeypatch.setattr(Pool, "set_lane", noting)
        return told

    async def test_are_told_to_each_pool_before_the_first_request(
        self, database_url: str, told: list[tuple[str, object, dict[str, Any]]]
    ) -> None:
        settings = settings_for(database_url, database_replica_url=database_url)
        async with service(settings, routes=routes):
            at_start = {(pool, lane, *limits.values()) for pool, lane, limits in told}
        assert at_start == {
            (pool, *limits)
            for pool in ("primary", "replica")
            for limits in (("own", 2, 1, 2.0), ("GET /t/own/limits", 3, 0, 1.0), ("group", 4, 0, 1.0))
        } | {  # and of their reads that no replica serves
            ("primary", "for a replica: own", 2, 0, 2.0),
            ("primary", "for a replica: GET /t/own/limits", 3, 0, 1.0),
            ("primary", "for a replica: group", 4, 0, 1.0),
        }

    async def test_of_a_route_that_is_added_late_count_too(
        self,
        serving: Service,
        borrowed: list[Where],
        told: list[tuple[str, object, dict[str, Any]]],
        log: Log,
    ) -> None:
        late = [("/late", [lane("late", at_most=1)]), ("/late/2", [lane("late", at_most=2)])]
        for path, dependencies in late:
            serving.app.add_api_route(path, read, dependencies=dependencies)
            assert (await serving.client.get(path)).is_success
        assert borrowed == [("late", "normal")] * 2
        assert {lane for _, lane, limits in told if limits["at_most"] == 1} == {"late", "for a replica: late"}
        assert [line["route"] for line in log() if line["event"] == "lane_not_limited"] == ["/late/2"]

    async def test_that_contradict_each_other_stop_the_start_in_a_line(self, database_url: str) -> None:
        wrong = APIRouter()
        wrong.add_api_route("/a", read, dependencies=[lane("both", at_most=1)])
        wrong.add_api_route("/b", read, dependencies=[lane("both", at_most=2)])
        app = create_app(settings_for(database_url))
        app.include_router(wrong)
        with pytest.raises(LanesDoNotFit):
            async with app.running():
                pass
        assert str(app.refusal).startswith("the lane 'both' has at_most=1")
        assert "\n" not in str(app.refusal)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": " "}, ValueError),
        ({"name": "a\nb"}, ValueError),
        ({"name": "x" * 65}, ValueError),
        ({"name": 5}, TypeError),
        ({"at_most": 0}, ValueError),
        ({"at_most": 1.5}, TypeError),
        ({"at_most": True}, TypeError),
        ({"at_least": -1}, ValueError),
        ({"at_most": 1, "at_least": 2}, ValueError),
        ({"weight": 0}, ValueError),
        ({"weight": float("nan")}, ValueError),
        ({"weight": float("inf")}, ValueError),
        ({"priority": "urgent"}, ValueError),
        ({"of": "tenant"}, TypeError),
        ({"of": nothing}, TypeError),
        ({"of": tenant, "at_most": 1}, ValueError),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_where_it_stands(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        lane(**arguments)
