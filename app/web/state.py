"""What the lifespan hands to every request."""

from __future__ import annotations

from typing import TypedDict, cast

from starlette.requests import HTTPConnection

from app.database import Database
from app.observability import LoopLag, Metrics
from app.settings import Settings
from app.web.buffered import Buffered
from app.web.drain import Drain
from app.web.gate import Gate
from app.web.history import History
from app.web.readiness import ReadinessWatch


class State(TypedDict):
    """The parts of the running service, one of each."""

    settings: Settings
    database: Database
    drain: Drain
    buffered: Buffered
    gate: Gate
    readiness: ReadinessWatch
    metrics: Metrics
    history: History
    loop_lag: LoopLag


def state_of(connection: HTTPConnection) -> State:
    """Give the state with its types, which `state` of a request or a WebSocket does not have."""
    return cast("State", connection.scope["state"])
