"""A FastAPI app with its databases: its parts, made and run."""

from lifeguard.service.assembly import LAST_SECONDS, Service, made_on_demand

__all__ = ["LAST_SECONDS", "Service", "made_on_demand"]
