"""Logs, metrics, traces: what the service says about itself."""

from lifeguard.observability.counting import Metrics
from lifeguard.observability.events import log_pool_event
from lifeguard.observability.lane_names import shown_name
from lifeguard.observability.logs import AlreadyLogged
from lifeguard.observability.loop_lag import LoopLag
from lifeguard.observability.pool_numbers import BreakerNumbers, PoolNumbers, ReplicaNumbers, numbers, rounded
from lifeguard.observability.scrub import Scrubber
from lifeguard.observability.stalls import StallWatch

__all__ = [
    "AlreadyLogged",
    "BreakerNumbers",
    "LoopLag",
    "Metrics",
    "PoolNumbers",
    "ReplicaNumbers",
    "Scrubber",
    "StallWatch",
    "log_pool_event",
    "numbers",
    "rounded",
    "shown_name",
]
