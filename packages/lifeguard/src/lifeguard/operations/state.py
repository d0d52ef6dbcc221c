"""What the lifespan hands to every request, with what the operators' pages need besides."""

from __future__ import annotations

from typing import cast

from starlette.requests import HTTPConnection

from lifeguard.observability import Scrubber
from lifeguard.operations.history import History
from lifeguard.operations.readiness import ReadinessWatch
from lifeguard.web import state


class State(state.State):
    """The parts of the running service, one of each."""

    readiness: ReadinessWatch
    history: History
    scrub: Scrubber


def state_of(connection: HTTPConnection) -> State:
    """Give the state with its types, which `state` of a request or a WebSocket does not have."""
    return cast("State", connection.scope["state"])
