"""The service, put together: what it is made of, what is mounted, and in which order.

uvicorn app.main:app        fastapi run app/main.py        python -m app serve
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from lifeguard.observability import logs, traces
from lifeguard.operations import docs_page, pool_pages, probes
from lifeguard.operations.state import State
from lifeguard.service import Service, made_on_demand
from lifeguard.web.body_limit import BodyLimit
from lifeguard.web.gate import GateMiddleware
from lifeguard.web.hangup import HangupMiddleware
from lifeguard.web.head_as_get import HeadAsGet
from lifeguard.web.middleware import RequestMiddleware
from lifeguard.web.sockets import SocketMiddleware
from lifeguard.web.stale import StaleIfError

from app import ledger
from app.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    app: FastAPI

_DESCRIPTION = """\
Every answer carries `X-Request-ID`; a valid one of the request is kept. `X-Request-Timeout: <seconds>`
(0.01 or more, else 400) says how long its client will wait: its wait for the database and its statements
end by then, and nothing else does. Errors are problems (RFC 9457).
"""


def create_app(settings: Settings | None = None) -> Service:
    """Put the service together; nothing is opened before its lifespan starts, which it does once.

    Raises SettingsError, one readable line per fault.
    """
    settings = settings or Settings.load()
    logs.configure(settings)
    service = Service(settings, description=_DESCRIPTION, lifespan=lifespan)
    parts, routing = service.parts, service.parts["gate"].routing
    # What a request goes through, from the inside outwards.
    service.add_middleware(HangupMiddleware)
    service.add_middleware(GateMiddleware, gate=parts["gate"])
    service.add_middleware(
        StaleIfError,
        routing=routing,
        name=settings.service_name,
        note=parts["metrics"].note_stale_answer,
    )
    service.add_middleware(HeadAsGet, routing=routing)
    service.add_middleware(SocketMiddleware, drain=parts["drain"], metrics=parts["metrics"])
    service.add_middleware(
        RequestMiddleware,
        body_limit=BodyLimit(routing, settings.max_body_bytes),
        buffered=parts["buffered"],
        drain=parts["drain"],
        metrics=parts["metrics"],
    )
    if service.is_traced:
        service.add_middleware(traces.WithoutQueries)
    # What operators ask, on OPS_PORT where there is one.
    service.include_operators(probes.router, pool_pages.router)
    if settings.serves_docs:
        service.include_operators(docs_page.router)
    # What it is there for.
    service.include_router(ledger.router)
    return service


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[State]:
    """From the first connection to the last. What else the service needs is opened and closed around it."""
    async with service.running() as state:
        yield state


__getattr__ = made_on_demand(sys.modules[__name__], Settings)


def __dir__() -> list[str]:
    """Let `fastapi run`, which looks before it asks, find `app`."""
    return sorted({*globals(), "app"})
