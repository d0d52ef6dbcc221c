"""What a request's head may not have too much of, as a problem for its sender."""

from __future__ import annotations

from fastapi_problem.error import Problem
from starlette.types import Scope

from lifeguard.web import problems, request_head


def excess(scope: Scope, cookies: int) -> Problem | None:
    """Give the problem of a head with too many parts, of which `cookies` are counted already, or with two of
    what there is one of.

    FastAPI reads them all, for every request, and validation has an error for each that a route forbids.
    """
    if request_head.has_too_many_parameters(scope["query_string"]):
        return problems.BadRequest(f"The query has more than {request_head.MOST_PARAMETERS} parameters.")
    if len(scope["headers"]) > request_head.MOST_HEADERS or cookies > request_head.MOST_COOKIES:
        return problems.HeadersTooLarge()
    if request_head.has_endless_number(scope["path"]):
        return problems.BadRequest(f"The path has a number of more than {request_head.MOST_DIGITS} digits.")
    if request_head.has_repeated(scope["headers"]):
        return problems.BadRequest("A header that may be there once is there twice.")
    return None
