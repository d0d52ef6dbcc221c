"""The service, put together: what it is made of, what is mounted, and in which order.

uvicorn app.main:app        fastapi run app/main.py        python -m app serve
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from lifeguard import protection
from lifeguard.observability import logs, traces
from lifeguard.operations import docs_page, live_page, pool_pages, probes
from lifeguard.operations.state import State
from lifeguard.service import Service, made_on_demand
from lifeguard.web import plans

from app import ledger
from app.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    app: FastAPI

_DESCRIPTION = """\
Every answer carries `X-Request-ID`; a valid one of the request is kept. `X-Request-Timeout: <seconds>`
(0.01 or more, else 400) says how long its client will wait: its wait for the database and its statements
end by then, and nothing else does. `X-Request-Priority` (`critical`, `normal` or `background`, else 400)
lowers its priority where requests have to wait. Where reads may come from a replica, a write's answer carries
`X-Consistency-Token`: a read that sends it back sees that write. Errors are problems (RFC 9457).
"""


def create_app(settings: Settings | None = None) -> Service:
    """Put the service together; nothing is opened before its lifespan starts, which it does once.

    Raises SettingsError, one readable line per fault.
    """
    settings = settings or Settings.load()
    logs.configure(settings)
    service = Service(
        settings,
        description=_DESCRIPTION,
        lifespan=lifespan,
        telemetry=traces.telemetry(settings),
    )
    # What a request goes through, from the inside outwards.
    service.protect(
        protection.hangup,
        protection.gate,
        protection.stale_answers,
        protection.head_as_get,
        protection.sockets,
        protection.requests,
    )
    plans.install(service)
    # What operators ask, on OPS_PORT where there is one.
    service.include_operators(probes.router)
    service.include_operators(pool_pages.router)
    service.include_operators(live_page.router)
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
