"""The page of `/pool/live`: one file that loads nothing else, under a policy that allows nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from lifeguard.operations import csp
from lifeguard.operations.history import INTERVAL, History
from lifeguard.operations.state import state_of
from lifeguard.web.drain import Drain

HTML = Path(__file__).with_name("live.html").read_text(encoding="utf-8")
HEADERS = csp.policy(
    connect_src="'self'", script_src=csp.inline(HTML, "script"), style_src=csp.inline(HTML, "style")
)

router = APIRouter(tags=["pool"])


@router.get("/pool/live", response_class=HTMLResponse)
async def live() -> HTMLResponse:
    """What `/pool` tells, as a page that draws the last minutes and goes on."""
    return HTMLResponse(HTML, headers=HEADERS)


@router.get("/pool/live/events", include_in_schema=False)
async def live_events(request: Request) -> StreamingResponse:
    """The page's data as server-sent events: the last minutes at once, then a sample a second."""
    state = state_of(request)
    return StreamingResponse(
        _events(state["history"], state["drain"]),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _events(history: History, drain: Drain) -> AsyncIterator[str]:
    """Yield until the service drains: a stream that did not end would hold the shutdown up."""
    yield "retry: 2000\n\n"
    latest = 0
    while True:
        if samples := history.since(latest):
            latest = samples[-1]["number"]
            yield f"data: {json.dumps(samples, separators=(',', ':'))}\n\n"
        if await drain.wait(INTERVAL):
            return
