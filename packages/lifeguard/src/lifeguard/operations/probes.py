"""What machines ask: are you alive, should traffic come, what are your numbers."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from lifeguard.database.schema import Standing
from lifeguard.operations.readiness import Status
from lifeguard.operations.report import Report
from lifeguard.operations.state import state_of

router = APIRouter(tags=["probes"])


class Alive(Report):
    status: Literal["alive"] = "alive"


class ReadinessReport(Report):
    status: Status
    reasons: list[str]
    standing: Standing | None = Field(alias="schema", description="null until the database was reached")


@router.get("/healthz", response_model=Alive)
async def healthz() -> Response:
    """Alive: the process can answer. Never looks at the database, whose absence no restart cures."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz", response_model=ReadinessReport, responses={503: {"model": ReadinessReport}})
async def readyz(request: Request) -> Response:
    """Whether traffic should come here: 503 until the database was reached with a current schema, and
    while draining. A database that goes away later is `degraded`, with 200 unless
    `READYZ_FAIL_WHEN_DEGRADED`. In production `reasons` are classes of faults; the log has the words."""
    state = state_of(request)
    readiness = state["readiness"].now()
    serves = readiness.status == "ready" or (
        readiness.status == "degraded" and not state["settings"].readyz_fail_when_degraded
    )
    report = {
        "status": readiness.status,
        "reasons": [
            reason.kind if state["settings"].in_production else str(reason) for reason in readiness.reasons
        ],
        "schema": readiness.schema,
    }
    return JSONResponse(report, 200 if serves else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
)
async def metrics(request: Request) -> Response:
    """Prometheus's text format; OpenMetrics for those who accept it."""
    body, content_type = state_of(request)["metrics"].render(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
