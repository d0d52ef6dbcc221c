"""Makes the parts of a service (databases, drain, gate, metrics, ...) and runs them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import ModuleType
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from lifeguard.database import Database, PoolOversized, connect_options
from lifeguard.observability import (
    LoopLag,
    Metrics,
    Scrubber,
    StallWatch,
    log_pool_event,
    logs,
    numbers,
    output,
    traces,
)
from lifeguard.operations import operators
from lifeguard.operations.history import History
from lifeguard.operations.readiness import ReadinessWatch
from lifeguard.operations.state import State
from lifeguard.protection import Protection
from lifeguard.server import collector
from lifeguard.server.listening import CannotListen
from lifeguard.server.signals import StopSignals
from lifeguard.service import later
from lifeguard.settings import Settings, SettingsError
from lifeguard.web import body_limit, consistency, dependencies, problems
from lifeguard.web.app import App
from lifeguard.web.buffered import Buffered
from lifeguard.web.drain import Drain
from lifeguard.web.gate import Gate
from lifeguard.web.lanes import LanesDoNotFit
from lifeguard.web.layer import Front, make_front, make_layer
from lifeguard.web.routes import Routing

# Seconds for the pools to close when requests have used up DRAIN_TIMEOUT.
LAST_SECONDS = 1.0

_log = structlog.get_logger("lifeguard")


class Service(App):
    """A FastAPI app that has its parts from the beginning, and runs them until its end.

    Nothing is opened before its lifespan starts, which it does once. Raises SettingsError, one readable line
    per fault.
    """

    # Any: FastAPI's own options, which win over these.
    def __init__(
        self,
        settings: Settings,
        *,
        lifespan: Callable[[Service], AbstractAsyncContextManager[State]] | None = None,
        **options: Any,
    ) -> None:
        """`lifespan`: what is around `running()`, for a service that opens more than its databases."""
        documented_here = settings.serves_docs and settings.ops_port is None
        defaults: dict[str, Any] = {
            "title": settings.service_name,
            "docs_url": None,  # operations.docs_page has a security policy
            "openapi_url": "/openapi.json" if documented_here else None,
            "redoc_url": None,
            "redirect_slashes": False,  # to wherever the Host header says
            "responses": problems.documented(*problems.ANY),
            "telemetry": traces.OFF,  # traces.telemetry(settings): what the standard variables say
        }
        options = {**defaults, **options}
        super().__init__(**options, lifespan=lifespan or Service.running)
        telemetry = options["telemetry"]
        self._is_traced = bool(telemetry.get("tracing"))
        self._is_observed = any(telemetry.get(what, True) for what in ("tracing", "metrics", "logs"))
        self._front: Front | None = None
        self._built: ASGIApp | None = None
        self.parts = _parts(settings, self)
        self._operators: operators.OperatorsService | None = None
        for kind in problems.handled():
            self.add_exception_handler(kind, problems.answer)

    def protect(self, *protections: Protection) -> None:
        """Have requests go through these (lifeguard.protection), from the inside outwards."""
        for protection in protections:
            middleware = protection(self.parts)
            self.add_middleware(middleware.cls, *middleware.args, **middleware.kwargs)

    @override
    def openapi(self) -> dict[str, Any]:
        is_new = self.openapi_schema is None
        schema = super().openapi()
        if is_new:
            served = self.parts["gate"].routing.all_served()
            consistency.document(schema["paths"], served, dependencies.NEEDING_DATABASE)
        return schema

    @override
    def build_middleware_stack(self) -> ASGIApp:
        if self._is_traced:  # around all else, because a span of a request that is refused is exported, too
            self.add_middleware(traces.WithoutQueries)
        stack = self._built = super().build_middleware_stack()
        in_between = make_layer(stack)
        if in_between:
            _log.info("protections_apart", behind=in_between)
        self._front = None if self._is_observed else make_front(stack)
        return stack

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Who has put something around the stack since, or in front of FastAPI's methods, is not passed by.
        front = self._front
        if (
            front is None
            or scope["type"] != "http"
            or self.middleware_stack is not self._built
            or "fastapi.telemetry" in scope
        ):
            await super().__call__(scope, receive, send)
            return
        if self.root_path:
            scope["root_path"] = self.root_path
        scope["app"] = self
        await front(scope, receive, send)

    def include_operators(self, *routers: APIRouter) -> None:
        """Serve what operators ask: on `OPS_PORT` and nowhere else, or here where there is none."""
        settings = self.parts["settings"]
        if settings.ops_port is not None and self._operators is None:
            self._operators = operators.OperatorsService(self, settings, self.parts)
        for router in routers:
            (self._operators or self).include_router(router)

    @property
    def operators(self) -> FastAPI:
        """The app that operators ask: the one on `OPS_PORT`, or this one."""
        return self._operators or self

    @asynccontextmanager
    async def running(self) -> AsyncIterator[State]:
        """From the first connection to the last. Raises PoolOversized when the server is too small,
        CannotListen when OPS_PORT cannot be used."""
        logs.adopt_server_loggers()
        state = self.parts
        database, drain = state["database"], state["drain"]
        for warning in state["settings"].warnings:
            _log.warning("settings", warning=warning)
        async with AsyncExitStack() as until_the_end:
            try:
                dependencies.refuse_pinning(self)
                body_limit.refuse_what_never_fits(state["gate"].routing, state["buffered"].most)
                state["gate"].lanes.declare_all()
                if self._operators:
                    listening = operators.listening(self._operators, state["settings"], state)
                    await until_the_end.enter_async_context(listening)
                await database.open()
            except (
                PoolOversized,
                dependencies.PinsConnection,
                body_limit.BodiesDoNotFit,
                LanesDoNotFit,
                CannotListen,
            ) as error:
                self.refusal = str(error)
                await database.close()
                raise
            watchers = [
                asyncio.create_task(state["readiness"].run(), name="readiness"),
                asyncio.create_task(state["history"].run(drain), name="history"),
                asyncio.create_task(later.import_them(), name="imports"),
            ]
            state["loop_lag"].start()
            stalls = StallWatch()
            if not state["settings"].in_production:
                stalls.start()
            with StopSignals(drain, state["settings"].drain_delay):
                try:
                    yield state
                finally:
                    drain.begin()  # unless a signal has
                    stalls.stop()
                    state["loop_lag"].stop()
                    for watcher in watchers:  # they end with the drain, but may be waiting for an answer
                        watcher.cancel()
                    await asyncio.wait(watchers)
                    await database.drain(max(drain.time_left(), LAST_SECONDS))


def _parts(settings: Settings, service: Service) -> State:
    later.check()
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: required; only `make run` brings a database of its own")
    connect_options.check(settings)
    # What belongs to no request, jobs for instance, waits behind what somebody waits for.
    database = Database(settings, on_event=log_pool_event, lane="background", priority="background")
    drain = Drain(settings.drain_timeout, settings.drain_streams)
    loop_lag = LoopLag()
    scrub = Scrubber(settings.secret_values())
    readiness = ReadinessWatch(
        database,
        drain,
        scrub,
        migrations=settings.migrations,
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
            pools=lambda: numbers(database, scrub),
            ready=lambda: readiness.now().status in {"ready", "degraded"},
            draining=lambda: drain.draining,
            in_flight=lambda: drain.in_flight,
            loop_lag=lambda: loop_lag.seconds,
        ),
        history=History(lambda: numbers(database, scrub), lambda: loop_lag.seconds),
        loop_lag=loop_lag,
        scrub=scrub,
    )


def made_on_demand(module: ModuleType, settings: type[Settings]) -> Callable[[str], object]:
    """Give a module's `__getattr__` that makes its `app` by its `create_app` when somebody asks for it.

    Importing the module reads no environment. A server that asks gets either the app or, like the command
    line, a line per fault and exit code 2.
    """

    def getattribute(name: str) -> FastAPI:
        if name != "app":
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        try:
            loaded = settings.load()
            output.guard(loaded)
            made: FastAPI = module.create_app(loaded)
        except SettingsError as error:
            sys.stderr.write(f"{output.shown(error)}\n")
            raise SystemExit(2) from None
        collector.settle()
        vars(module)["app"] = made
        return made

    return getattribute
