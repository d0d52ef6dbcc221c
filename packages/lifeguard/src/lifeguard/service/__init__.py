"""A FastAPI app with its databases: its parts, made and run."""

import lifeguard.lean  # noqa: F401 - first: it says why

# isort: split
from lifeguard.service.assembly import LAST_SECONDS, Service, made_on_demand

__all__ = ["LAST_SECONDS", "Service", "made_on_demand"]
