"""From what an endpoint returns to status, headers and body, as FastAPI's handler does it."""

from __future__ import annotations

from typing import Any

from fastapi import routing
from fastapi._compat.v2 import ModelField
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import EndpointContext, ResponseValidationError
from fastapi.responses import JSONResponse
from fastapi.utils import is_body_allowed_for_status_code
from starlette.responses import Response
from starlette.types import Scope

from lifeguard.web.plans.internals import NotPlanned

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers and body."""

_OK = 200
_JSON = (b"content-type", b"application/json")
_OPTIONS = ("include", "exclude", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")


class Answers:
    """Those of one route."""

    __slots__ = ("_dependant", "_field", "_is_ordinary", "_options", "_said", "_status")

    def __init__(self, handler: dict[str, Any]) -> None:
        """`handler`: what FastAPI's handler of the route knows. Raises NotPlanned for what is not JSON."""
        response_class = handler["response_class"]
        if not isinstance(response_class, DefaultPlaceholder) or response_class.value is not JSONResponse:
            raise NotPlanned("it has a response_class")
        self._dependant: Dependant = handler["dependant"]
        self._field: ModelField | None = handler["response_field"]
        self._options = {name: handler[f"response_model_{name}"] for name in _OPTIONS}
        self._said: int = handler["status_code"] or 0
        self._status: int = self._said or _OK
        self._is_ordinary = _is_ordinary(self._status)

    def made_of(self, returned: Any, response: Response | None, scope: Scope) -> Answer:
        """The answer that says what the endpoint has `returned`; `response` is what it was given to set
        headers and status with.

        Raises ResponseValidationError, and what serialising raises.
        """
        given: int | None = response.status_code if response is not None else None
        status = self._status if given is None else given or self._said
        if self._field is None:
            return _complete(JSONResponse(jsonable_encoder(returned), status), response)
        value, errors = self._field.validate(returned, {}, loc=("response",))
        if errors:
            raise ResponseValidationError(
                errors=errors, body=returned, endpoint_ctx=_where(self._dependant, scope)
            )
        body = self._field.serialize_json(value, **self._options)
        if given is not None or not self._is_ordinary:
            made = Response(body, status, media_type="application/json")
            return _complete(made, response)
        headers = [(b"content-length", b"%d" % len(body)), _JSON]
        if response is not None:
            headers += response.headers.raw
        return self._status, headers, body


def _is_ordinary(status: int) -> bool:
    """Whether an answer of this status has a body."""
    return status >= _OK and is_body_allowed_for_status_code(status)


def _complete(made: Response, given: Response | None) -> Answer:
    if not is_body_allowed_for_status_code(made.status_code):
        made.body = b""
    if given is not None:
        made.headers.raw.extend(given.headers.raw)
    return made.status_code, made.raw_headers, bytes(made.body)


def _where(dependant: Dependant, scope: Scope) -> EndpointContext:
    """Where the endpoint is, for the message of an error."""
    place = routing._extract_endpoint_context(dependant.call)  # noqa: SLF001 - tests' web/test_internals.py
    if dependant.path:
        place["path"] = f"{scope['method']} {scope.get('root_path', '').rstrip('/')}{dependant.path}"
    return place


def response_to_fill() -> Response:
    """What endpoints and dependencies get to set headers, cookies and status with."""
    response = Response()
    del response.headers["content-length"]
    response.status_code = None  # type: ignore[assignment]  # as FastAPI does: nobody has said one
    return response
