"""Logs, metrics, traces: what the service says about itself."""

from app.observability.events import log_pool_event
from app.observability.logs import AlreadyLogged
from app.observability.loop_lag import LoopLag
from app.observability.metrics import Metrics
from app.observability.numbers import BreakerNumbers, PoolNumbers, ReplicaNumbers, numbers, rounded
from app.observability.scrub import Scrubber

__all__ = [
    "AlreadyLogged",
    "BreakerNumbers",
    "LoopLag",
    "Metrics",
    "PoolNumbers",
    "ReplicaNumbers",
    "Scrubber",
    "log_pool_event",
    "numbers",
    "rounded",
]
