"""Changes that lose no other change: the version that a client has read, in `ETag` and `If-Match`.

    @router.patch("/{order_id}", responses=problems.documented(*etags.REFUSALS, ...))
    async def change_order(order_id: pages.PathId, if_match: etags.IfMatch = None, ...) -> Order:
        order = await service.change(transaction, order_id, etags.versions(if_match))
        response.headers["ETag"] = etags.etag(order.version)

A version is a whole number that every change raises by one. Section 13.1.1 of RFC 9110 has the rules.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Final

from fastapi import Header
from fastapi_problem.error import StatusProblem

_LARGEST: Final = 2**31 - 1
_PATTERN = r'^(\*|(W/)?"[!#-~]*"([ \t]*,[ \t]*(W/)?"[!#-~]*"){0,9})$'
_TAG = re.compile(r'(W/)?"([!#-~]*)"')
_VERSION = re.compile(r"0|[1-9][0-9]{0,9}")

IfMatch = Annotated[
    str | None,
    Header(
        pattern=_PATTERN,
        max_length=1000,
        description="The `ETag` of what is to be changed, as it was read; `*` for whatever it is by now.",
    ),
]
HEADER = {"ETag": {"description": "The version, for `If-Match`.", "schema": {"type": "string"}}}
"""For the `headers` of a documented answer."""


class PreconditionFailed(StatusProblem):
    type_, title, status = "precondition-failed", "It has been changed since it was read", 412


class PreconditionRequired(StatusProblem):
    type_, title, status = "precondition-required", "Say which version is meant", 428


REFUSALS = (PreconditionFailed, PreconditionRequired)
"""What an endpoint with `IfMatch` may answer besides."""


def etag(version: int) -> str:
    """The `ETag` of a version."""
    return f'"{version}"'


def versions(if_match: str | None) -> Collection[int] | None:
    """The versions that a client agrees to change; None for any.

    A weak tag matches nothing, nor does one that is none of ours. Raises PreconditionRequired without a
    header.
    """
    if if_match is None:
        raise PreconditionRequired("Send the ETag of what you read in If-Match.")
    if if_match == "*":
        return None
    strong = [tag for weak, tag in _TAG.findall(if_match) if not weak]
    return [int(tag) for tag in strong if _VERSION.fullmatch(tag) and int(tag) <= _LARGEST]
