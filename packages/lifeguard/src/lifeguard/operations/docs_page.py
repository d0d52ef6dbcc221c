"""`/docs`: FastAPI's page, under a policy that lets it load Swagger UI and nothing else."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from lifeguard.operations import csp

SWAGGER_UI = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API's documentation, to read and to try."""
    page = get_swagger_ui_html(
        openapi_url=request.app.openapi_url,
        title=request.app.title,
        swagger_js_url=f"{SWAGGER_UI}swagger-ui-bundle.js",
        swagger_css_url=f"{SWAGGER_UI}swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    html = bytes(page.body).decode()
    return HTMLResponse(
        html,
        headers=csp.policy(
            connect_src="'self'",
            img_src="data:",
            script_src=f"{SWAGGER_UI} {csp.inline(html, 'script')}",
            style_src=f"{SWAGGER_UI} 'unsafe-inline'",  # Swagger UI sets styles as it goes
        ),
    )
