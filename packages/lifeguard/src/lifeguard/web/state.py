"""What the lifespan hands to every request."""

from __future__ import annotations

from typing import TypedDict, cast

from starlette.requests import HTTPConnection

from lifeguard.database import Database
from lifeguard.observability import LoopLag, Metrics
from lifeguard.settings import Settings
from lifeguard.web.buffered import Buffered
from lifeguard.web.drain import Drain
from lifeguard.web.gate import Gate


class State(TypedDict):
    """The parts of the running service that requests meet, one of each."""

    settings: Settings
    database: Database
    drain: Drain
    buffered: Buffered
    gate: Gate
    metrics: Metrics
    loop_lag: LoopLag


def state_of(connection: HTTPConnection) -> State:
    """Give the state with its types, which `state` of a request or a WebSocket does not have."""
    return cast("State", connection.scope["state"])
