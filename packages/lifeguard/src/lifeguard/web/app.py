"""A FastAPI app with problems (RFC 9457) in its documentation, and a readable refusal to start."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from rfc9457.openapi import problem_component, problem_response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from lifeguard.web import problems, strict_json, validation
from lifeguard.web.mounted import answer_errors_of_mounted

_ENGINE = "lifeguard."

_INVALID_EXAMPLE = problems.Invalid(
    "1 error in the request.",
    errors=[{"detail": "Input should be greater than 0", "in": "body", "pointer": "#/amount"}],
).marshal(uri=problems.TYPE_URI)


class App(FastAPI):
    """A FastAPI app whose errors are problems and that can decline to start in one line."""

    refusal: str | None = None
    """Why the lifespan gave up: logged instead of a traceback."""

    def __init__(self, **options: Any) -> None:
        """`options` are FastAPI's."""
        strict_json.install()
        validation.install()
        super().__init__(**options)

    @property
    def meets_requests_first(self) -> bool:
        """Whether all middleware is the engine's. Other middleware (CORS, for one) has to see refusals."""
        return all(str(one.cls.__module__).startswith(_ENGINE) for one in self.user_middleware)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await super().__call__(scope, receive, send)
            return

        async def send_refusal(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self.refusal:
                message = {**message, "message": self.refusal}
            await send(message)

        await super().__call__(scope, receive, send_refusal)

    @override
    def build_middleware_stack(self) -> ASGIApp:
        answer_errors_of_mounted(self.routes)
        return super().build_middleware_stack()

    @override
    def openapi(self) -> dict[str, Any]:
        """Give the schema with RFC 9457 problems where FastAPI writes its own validation error."""
        if self.openapi_schema is None:
            schema = super().openapi()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            schemas["Problem"] = _problem_schema()
            for path in schema["paths"].values():
                for operation in path.values():
                    _replace_validation_error(operation["responses"])
        assert self.openapi_schema is not None
        return self.openapi_schema


def _replace_validation_error(responses: dict[str, Any]) -> None:
    described = responses.get("422", {}).get("content", {})
    if "application/json" in described:  # FastAPI's; ours are problem+json already
        responses["422"] = problem_response("Unprocessable Content", [_INVALID_EXAMPLE])


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    fault = {"type": "object", "properties": {"detail": text, "in": text, "pointer": text}}
    return problem_component(
        "Problem",
        required=["request_id"],
        detail={**text, "title": "What happened this time"},
        request_id={**text, "title": "The id of this request, as in the log"},
        errors={"type": "array", "items": fault, "title": "What is wrong with which value"},
    )
