"""Errors as RFC 9457 problems: what each exception becomes is decided in this one place.

An endpoint raises a problem where it knows one (`raise problems.NotFound("...")`) and lets every
other exception pass. An unforeseen one becomes `internal`: no details for the client, all of them in the log.

The classes are fastapi-problem's. Its exception handler is not used: Starlette runs it in a thread
for every error, and it shows unknown errors to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from math import ceil
from traceback import walk_tb
from typing import Any
from urllib.parse import quote

import asyncpg
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_problem.error import Problem, StatusProblem
from rfc9457.openapi import problem_response
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from lifeguard.database import (
    CommitUnknown,
    DatabaseUnavailable,
    DeadlineExceeded,
    InvalidToken,
    SchemaChanged,
    call_scope,
)
from lifeguard.pool import PoolClosing, PoolSaturated, PoolTimeout, PoolUnavailable
from lifeguard.web import refused_values, validation
from lifeguard.web.fitting import fitted
from lifeguard.web.routes import choice_of
from lifeguard.web.strict_json import JSONRefused

TYPE_URI = "/problems/{type}"
MEDIA_TYPE = "application/problem+json"
SCOPE_KEY = "lifeguard.problem"
"""Where a request's scope holds the exception and the problem made of it, for the log line."""


class Saturated(StatusProblem):
    type_, title, status = "pool-saturated", "Turned away to keep the queue short", 503


class QueueTimeout(StatusProblem):
    type_, title, status = "pool-timeout", "No connection within the time to wait", 503


class Unavailable(StatusProblem):
    type_, title, status = "database-unavailable", "The database cannot be reached", 503


class ShuttingDown(StatusProblem):
    type_, title, status = "shutting-down", "This instance is shutting down", 503


class StatementTimeout(StatusProblem):
    type_, title, status = "statement-timeout", "The database took too long", 504


class OutcomeUnknown(StatusProblem):
    type_, title, status = "commit-unknown", "Whether it was committed is not known", 503


class Overloaded(StatusProblem):
    type_, title, status = "overloaded", "Too much is under way here at once", 503
    headers_ = {"Retry-After": "1"}  # noqa: RUF012 - the library copies it


class BadRequest(StatusProblem):
    type_, title, status = "bad-request", "The request cannot be read", 400


class InvalidConsistencyToken(StatusProblem):
    type_, title, status = "invalid-consistency-token", "The consistency token cannot be used here", 400


class Invalid(StatusProblem):
    type_, title, status = "validation", "The request is not valid", 422


class NotFound(StatusProblem):
    type_, title, status = "not-found", "There is nothing here", 404


class PayloadTooLarge(StatusProblem):
    type_, title, status = "payload-too-large", "The request body is too large", 413


class RequestTimeout(StatusProblem):
    type_, title, status = "request-timeout", "The request came too slowly", 408


class HeadersTooLarge(StatusProblem):
    type_, title, status = "headers-too-large", "The request's headers are too large", 431


class UriTooLong(StatusProblem):
    type_, title, status = "uri-too-long", "The request's target is too long", 414


class ExpectationFailed(StatusProblem):
    type_, title, status = "expectation-failed", "What the request expects is not done here", 417


class MethodNotImplemented(StatusProblem):
    type_, title, status = "not-implemented", "This method, or this coding of a body, is not known here", 501


class VersionNotSupported(StatusProblem):
    type_, title, status = "http-version-not-supported", "HTTP/1.1 and HTTP/1.0 are spoken here", 505


class Unauthorized(StatusProblem):
    type_, title, status = "unauthorized", "A token is needed", 401
    headers_ = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012 - the library copies it


class Forbidden(StatusProblem):
    type_, title, status = "forbidden", "Not with this token", 403


class ForeignOrigin(StatusProblem):
    type_, title, status = "foreign-origin", "Pages of other origins may not open this", 403


class Internal(StatusProblem):
    type_, title, status = "internal", "Something went wrong on our side", 500


class BodyTurnedAway(HTTPException):
    """`Overloaded`, noticed while a body is read: FastAPI makes 400 of whatever is no HTTPException there."""

    def __init__(self) -> None:
        super().__init__(Overloaded.status)


ANY = (BadRequest, InvalidConsistencyToken, PayloadTooLarge, Internal)
"""What every endpoint may answer."""
DATABASE = (Saturated, QueueTimeout, Unavailable, ShuttingDown, StatementTimeout)
"""What every endpoint that uses the database may answer."""
WRITING = (*DATABASE, OutcomeUnknown)
"""What every endpoint that writes may answer."""


def problem_of(error: Exception) -> Problem:
    """Give the problem that `error` means to a client."""
    if isinstance(error, Problem):
        return error
    for kind in type(error).__mro__:
        if make := _TABLE.get(kind):
            return make(error)
    return Internal()


async def answer(request: Request, error: Exception) -> JSONResponse:
    """Answer `request` with the problem that `error` means: the handler of every exception.

    A WebSocket's goes on to `lifeguard.web.sockets`: Starlette sends nobody what this would return for one.
    """
    if request.scope["type"] != "http":
        raise error
    return rendered(request, error)


def rendered(request: HTTPConnection, error: Exception) -> JSONResponse:
    """Render the problem that `error` means, for a request or for a WebSocket's handshake."""
    problem = problem_of(error)
    request.scope[SCOPE_KEY] = (error, problem)
    content = fitted(problem.marshal(uri=TYPE_URI))
    call = call_scope.get()
    content["request_id"] = call.tag if call else None
    headers = {**(problem.headers or {})}
    choice = choice_of(request.scope)
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED and choice and choice.served is None:
        asked = {**request.scope, "root_path": choice.root_path}
        headers["Allow"] = ", ".join(choice.routing.methods_of(asked))
    return JSONResponse(content, problem.status, headers=headers, media_type=MEDIA_TYPE)


def handled() -> Iterable[type[Exception]]:
    """Give the exceptions that `answer` handles.

    Not those that may be a mistake of ours: they have to reach the log as unforeseen errors.
    """
    return (Problem, *(kind for kind in _TABLE if kind not in {TimeoutError, asyncpg.DataError}))


def documented(*problems: type[StatusProblem]) -> dict[int | str, dict[str, Any]]:
    """Describe `problems` for the `responses` of a route, an example of each."""
    by_status: dict[int | str, list[dict[str, Any]]] = {}
    for problem in problems:
        example = problem("What happened this time.").marshal(uri=TYPE_URI)
        by_status.setdefault(problem.status, []).append({**example, "request_id": "4f1c..."})
    return {
        status: problem_response(HTTPStatus(int(status)).phrase, examples)
        for status, examples in by_status.items()
    }


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, ceil(seconds)))}


def saturated(retry_after: float) -> Problem:
    """Give the problem of a request that would have to queue for too long."""
    return Saturated(
        "More requests wait for a connection than can be served in time.",
        headers=_retry_after(retry_after),
    )


def lane_refused(retry_after: float) -> Problem:
    """Give the problem of a request whose lane's breaker is open."""
    return Saturated(
        "What requests of this kind do in the database does not come to its end, so they are refused for now."
        " Others are served.",
        headers=_retry_after(retry_after),
    )


def unavailable(retry_after: float) -> Problem:
    """Give the problem of a request that needs a database that is gone."""
    return Unavailable(headers=_retry_after(retry_after))


def _saturated(error: PoolSaturated) -> Problem:
    if error.reason == "lane_breaker":
        return lane_refused(error.retry_after)
    return saturated(error.retry_after)


def _queue_timeout(_: PoolTimeout) -> Problem:
    return QueueTimeout("All connections stayed in use.", headers=_retry_after(1))


def _unavailable(error: PoolUnavailable | DatabaseUnavailable) -> Problem:
    return unavailable(error.retry_after)


def _schema_changed(error: SchemaChanged) -> Problem:
    return Unavailable(
        "The database's schema changed under the request.",
        headers=_retry_after(error.retry_after),
    )


def _connection_lost(_: Exception) -> Problem:
    return Unavailable(headers=_retry_after(1))


def _conflicting(_: Exception) -> Problem:
    return Unavailable(
        "Other transactions kept getting in the way; nothing was changed.", headers=_retry_after(1)
    )


def _invalid_token(error: InvalidToken) -> Problem:
    return InvalidConsistencyToken(f"{error} Repeat the request without it.")


def _overloaded(_: BodyTurnedAway) -> Problem:
    return Overloaded(headers={"Connection": "close"})  # what is left of the body is no request


def _shutting_down(_: Exception) -> Problem:
    return ShuttingDown("Another instance will serve this.", headers=_retry_after(1))


def _statement_timeout(_: Exception) -> Problem:
    return StatementTimeout("The statement was ended; nothing of it was kept.")


def _lock_timeout(_: Exception) -> Problem:
    return StatementTimeout("Another transaction held a lock for too long.")


def _outcome_unknown(_: Exception) -> Problem:
    return OutcomeUnknown(
        "The commit was sent and was not confirmed in time. Repeat only what can be recognised as a"
        " repetition: with the same Idempotency-Key it will take effect once."
    )


def _invalid(error: RequestValidationError) -> Problem:
    """Name the fields that are wrong, and repeat no value: it may be a secret, or somebody else's."""
    detail, faults = validation.told(error)
    return Invalid(detail, errors=faults)


def _no_json(error: JSONRefused) -> Problem:
    """For an endpoint that reads `Request.json()` itself. FastAPI makes a RequestValidationError of it."""
    detail, faults = validation.told_of_json(error)
    return Invalid(detail, errors=faults)


def _no_text(_: Exception) -> Problem:
    return Invalid("A text has a character that the database does not keep: U+0000.")


def _refused_value(error: asyncpg.DataError) -> Problem:
    return Invalid(refused_values.DETAIL) if refused_values.is_of_the_client(error) else Internal()


def _timed_out(error: TimeoutError) -> Problem:
    """Tell a statement's time from an endpoint's own `asyncio.timeout`, which is no fault of the database.

    Both are a plain TimeoutError. A statement's was raised in asyncpg, an endpoint's in the endpoint.
    """
    places = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    if any(place.startswith(_RAISING_STATEMENT_TIMEOUTS) for place in places):
        return _statement_timeout(error)
    return Internal()


def _http_error(error: HTTPException) -> Problem:
    """Keep what the endpoint said: status, headers and detail; of a 500 nothing, as of every other."""
    status = error.status_code
    phrase = HTTPStatus(status).phrase if status in _KNOWN_STATUSES else f"Error {status}"
    said: dict[str, Any] = {"headers": dict(error.headers or {})}
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return Internal(**said)
    detail: object = error.detail  # Starlette says str, FastAPI lets it be anything
    if isinstance(detail, Mapping):
        said |= {str(name): value for name, value in detail.items() if str(name) not in _OURS}
    elif isinstance(detail, str):
        said["detail"] = None if detail == phrase else detail
    else:
        said["errors"] = detail
    if make := _STATUS_PROBLEMS.get(status):
        return make(**said)
    return Problem(title=phrase, type_=_in_a_uri(phrase), status=status, **said)


def _in_a_uri(phrase: str) -> str:
    """Give a status's phrase as the last part of a problem's type: `I'm a Teapot` as `im-a-teapot`."""
    words = phrase.lower().replace("'", "").split()
    return "-".join(quote(word, safe="") for word in words)


_RAISING_STATEMENT_TIMEOUTS = ("asyncpg", "lifeguard.pool", "lifeguard.database.deadlines")
_KNOWN_STATUSES = frozenset(HTTPStatus)
_OURS = frozenset(("type", "type_", "title", "status", "headers", "request_id", "self"))
"""Members of a problem that a `HTTPException.detail` does not replace."""

_STATUS_PROBLEMS: dict[int, type[StatusProblem]] = {
    400: BadRequest,
    404: NotFound,
    408: RequestTimeout,
    413: PayloadTooLarge,
    500: Internal,
}

# Any: each function takes the exception beside it. The nearest ancestor decides.
_TABLE: Mapping[type[Exception], Callable[[Any], Problem]] = {
    PoolSaturated: _saturated,
    PoolTimeout: _queue_timeout,
    PoolUnavailable: _unavailable,
    PoolClosing: _shutting_down,
    DatabaseUnavailable: _unavailable,
    SchemaChanged: _schema_changed,
    CommitUnknown: _outcome_unknown,
    DeadlineExceeded: _statement_timeout,
    InvalidToken: _invalid_token,
    TimeoutError: _timed_out,
    asyncpg.QueryCanceledError: _statement_timeout,
    asyncpg.LockNotAvailableError: _lock_timeout,
    asyncpg.SerializationError: _conflicting,
    asyncpg.DeadlockDetectedError: _conflicting,
    asyncpg.PostgresConnectionError: _connection_lost,
    asyncpg.OperatorInterventionError: _connection_lost,
    asyncpg.InsufficientResourcesError: _connection_lost,
    asyncpg.ReadOnlySQLTransactionError: _connection_lost,
    asyncpg.CharacterNotInRepertoireError: _no_text,
    asyncpg.DataError: _refused_value,
    RequestValidationError: _invalid,
    JSONRefused: _no_json,
    BodyTurnedAway: _overloaded,
    HTTPException: _http_error,
}
