"""Traces: FastAPI's own OpenTelemetry spans, exported when the standard variables ask for it.

Needs the packages of `lifeguard-pg[otel]`, which no service installs by itself.
"""

from __future__ import annotations

from importlib.util import find_spec

import structlog
from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from starlette.types import ASGIApp, Receive, Scope, Send

from lifeguard.settings import Settings

OFF = TelemetryConfig(auto_configure=False, tracing=False, metrics=False, logs=False)
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_log = structlog.get_logger("lifeguard.traces")


def telemetry(settings: Settings) -> TelemetryConfig:
    """Give FastAPI's telemetry settings: traces if an endpoint is set, metrics and logs never.

    Those two leave by `/metrics` and by standard output.
    """
    disabled = settings.otel.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or not any(settings.otel.get(name) for name in _ENDPOINTS):
        return OFF
    if not all(_installed(package) for package in _PACKAGES):
        _log.warning("traces_off", reason="OTEL_* asks for traces: pip install 'lifeguard-pg[otel]'")
        return OFF
    _log.info("traces_on")
    return TelemetryConfig(auto_configure=True, tracing=True, metrics=False, logs=False)


class WithoutQueries:
    """Middleware that takes the query, where secrets travel, out of the request's span, as out of the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("query_string"):
            trace.get_current_span().set_attribute("url.query", "")
        await self.app(scope, receive, send)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the packages around it
        return False
