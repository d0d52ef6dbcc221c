"""The service, put together: the only place that knows every part.

uvicorn app.main:app        fastapi run app/main.py        python -m app serve
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, cast

import structlog
from fastapi import FastAPI

from app import ledger
from app.database import Database, PoolOversized, connecting
from app.observability import LoopLag, Metrics, Scrubber, log_pool_event, logs, numbers, output, traces
from app.settings import Settings, SettingsError
from app.web import dependencies, docs_page, operators, pool_pages, probes, problems
from app.web.body_limit import BodyLimit
from app.web.buffered import Buffered
from app.web.drain import Drain
from app.web.gate import Gate, GateMiddleware
from app.web.hangup import HangupMiddleware
from app.web.head import HeadAsGet
from app.web.history import History
from app.web.middleware import RequestMiddleware
from app.web.operators import CannotListen, OperatorsService
from app.web.readiness import ReadinessWatch
from app.web.routes import Routing
from app.web.service import Service
from app.web.signals import StopSignals
from app.web.sockets import SocketMiddleware
from app.web.stale import StaleIfError
from app.web.state import State

if TYPE_CHECKING:
    app: FastAPI

# Seconds for the pools to close when requests have used up DRAIN_TIMEOUT.
_LAST_SECONDS = 1.0

_DESCRIPTION = """\
Every answer carries `X-Request-ID`; a valid one of the request is kept. `X-Request-Timeout: <seconds>`
(0.01 or more, else 400) says how long its client will wait: its wait for the database and its statements
end by then, and nothing else does. Errors are problems (RFC 9457).
"""

_log = structlog.get_logger("app")


def create_app(settings: Settings | None = None) -> Service:
    """Put the service together; nothing is opened before its lifespan starts, which it does once.

    Raises SettingsError, one readable line per fault.
    """
    settings = settings or Settings.load()
    logs.configure(settings)
    state: State
    operators_service: OperatorsService | None = None
    telemetry = traces.telemetry(settings)
    service = Service(
        title=settings.service_name,
        description=_DESCRIPTION,
        docs_url=None,  # ours has a security policy
        openapi_url="/openapi.json" if settings.serves_docs and settings.ops_port is None else None,
        redoc_url=None,
        redirect_slashes=False,  # to wherever the Host header says
        responses=problems.documented(problems.Internal, problems.PayloadTooLarge),
        lifespan=lambda service: _lifespan(cast("Service", service), state, operators_service),
        telemetry=telemetry,
    )
    state = _parts(settings, service)
    # From the inside outwards.
    service.add_middleware(HangupMiddleware)
    service.add_middleware(GateMiddleware, gate=state["gate"])
    service.add_middleware(
        StaleIfError,
        routing=state["gate"].routing,
        name=settings.service_name,
        note=state["metrics"].note_stale_answer,
    )
    service.add_middleware(HeadAsGet, routing=state["gate"].routing)
    service.add_middleware(SocketMiddleware, drain=state["drain"], metrics=state["metrics"])
    service.add_middleware(
        RequestMiddleware,
        body_limit=BodyLimit(state["gate"].routing, settings.max_body_bytes),
        buffered=state["buffered"],
        drain=state["drain"],
        metrics=state["metrics"],
    )
    if telemetry.get("tracing"):
        service.add_middleware(traces.WithoutQueries)
    service.own_middlewares = len(service.user_middleware)
    for kind in problems.handled():
        service.add_exception_handler(kind, problems.answer)
    routers = [probes.router, pool_pages.router]
    if settings.serves_docs:
        routers.append(docs_page.router)
    if settings.ops_port is not None:
        operators_service = operators.OperatorsService(service, settings, routers, state)
        routers = []
    for router in (*routers, ledger.router):
        service.include_router(router)
    return service


def _parts(settings: Settings, service: Service) -> State:
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: required; only `make run` brings a database of its own")
    connecting.check(settings)
    database = Database(settings, on_event=log_pool_event)
    drain = Drain(settings.drain_timeout, settings.drain_streams)
    loop_lag = LoopLag()
    readiness = ReadinessWatch(
        database,
        drain,
        Scrubber(settings.secret_values()),
        accepts_newer_schema=settings.in_production,
    )
    return State(
        settings=settings,
        database=database,
        drain=drain,
        buffered=Buffered(settings.max_buffered_bytes),
        gate=Gate(Routing(service), database, dependencies.NEEDING_DATABASE),
        readiness=readiness,
        metrics=Metrics(
            target={"service_name": settings.service_name, "service_version": settings.service_version},
            pools=lambda: numbers(database),
            ready=lambda: readiness.now().status in {"ready", "degraded"},
            draining=lambda: drain.draining,
            in_flight=lambda: drain.in_flight,
            loop_lag=lambda: loop_lag.seconds,
        ),
        history=History(lambda: numbers(database), lambda: loop_lag.seconds),
        loop_lag=loop_lag,
    )


@asynccontextmanager
async def _lifespan(
    service: Service, state: State, operators_service: OperatorsService | None
) -> AsyncIterator[State]:
    """From the first connection to the last. Raises PoolOversized when the server is too small, CannotListen
    when OPS_PORT is not to be had."""
    logs.adopt_server_loggers()
    database, drain = state["database"], state["drain"]
    for warning in state["settings"].warnings:
        _log.warning("settings", warning=warning)
    async with AsyncExitStack() as until_the_end:
        try:
            dependencies.refuse_pinning(service)
            if operators_service:
                listening = operators.listening(operators_service, state["settings"], state)
                await until_the_end.enter_async_context(listening)
            await database.open()
        except (PoolOversized, dependencies.PinsConnection, CannotListen) as error:
            service.refusal = str(error)
            await database.close()
            raise
        watchers = [
            asyncio.create_task(state["readiness"].run(), name="readiness"),
            asyncio.create_task(state["history"].run(drain), name="history"),
        ]
        state["loop_lag"].start()
        with StopSignals(drain, state["settings"].drain_delay):
            try:
                yield state
            finally:
                drain.begin()  # unless a signal has
                state["loop_lag"].stop()
                for watcher in watchers:  # they end with the drain, but not in the middle of a look
                    watcher.cancel()
                await asyncio.wait(watchers)
                await database.drain(max(drain.time_left(), _LAST_SECONDS))


def __getattr__(name: str) -> object:
    """Make `app` when it is first asked for: importing this module reads no environment.

    A server that asks gets either the app or, like the command line, a line per fault and exit code 2.
    """
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        settings = Settings.load()
        output.guard(settings)
        made = create_app(settings)
    except SettingsError as error:
        sys.stderr.write(f"{output.shown(error)}\n")
        raise SystemExit(2) from None
    # What has been imported stays until the end. To look through it again would stop every request
    # for 0.1 s at each full collection, and the process as long at its end.
    gc.freeze()
    globals()["app"] = made
    return made


def __dir__() -> list[str]:
    """Let `fastapi run`, which looks before it asks, find `app`."""
    return sorted({*globals(), "app"})
