"""`python -m app sizing` with options: how large the pools should be, and why."""

from lifeguard.operations.sizing.advice import Advice, PoolerSizes, advise
from lifeguard.operations.sizing.asked import Asked, read
from lifeguard.operations.sizing.measured import asked_of
from lifeguard.operations.sizing.observed import NotObserved, Observed, observe
from lifeguard.operations.sizing.text import as_environment, as_json, as_text

__all__ = [
    "Advice",
    "Asked",
    "NotObserved",
    "Observed",
    "PoolerSizes",
    "advise",
    "as_environment",
    "as_json",
    "as_text",
    "asked_of",
    "observe",
    "read",
]
