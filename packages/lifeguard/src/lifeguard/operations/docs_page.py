"""`/docs`: FastAPI's page, under a policy that lets it load Swagger UI and nothing else."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from lifeguard.operations import csp

SWAGGER_UI = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
"""Where a browser gets Swagger UI. The hashes are those of the npm package's files, of this version."""
SCRIPT, STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
_INTEGRITY = {
    SCRIPT: "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9",
    STYLE: "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I",
}

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API's documentation, to read and to try."""
    page = get_swagger_ui_html(
        openapi_url=request.app.openapi_url,
        title=request.app.title,
        swagger_js_url=SWAGGER_UI + SCRIPT,
        swagger_css_url=SWAGGER_UI + STYLE,
        swagger_favicon_url="data:,",
    )
    html = bytes(page.body).decode()
    for file, integrity in _INTEGRITY.items():
        url = f'"{SWAGGER_UI}{file}"'
        html = html.replace(url, f'{url} integrity="{integrity}" crossorigin="anonymous"')
    return HTMLResponse(
        html,
        headers=csp.policy(
            connect_src="'self'",
            img_src="data:",
            script_src=f"{SWAGGER_UI} {csp.inline(html, 'script')}",
            style_src=f"{SWAGGER_UI} 'unsafe-inline'",  # Swagger UI sets styles as it goes
        ),
    )
