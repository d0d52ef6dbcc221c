"""Validation errors of a request, bounded when they are made and when they are answered.

pydantic makes an error for each fault, and has no bound. FastAPI makes a dictionary of each, twice: 100,000
of them stop every request for a second. `lifeguard.web.strict_json` bounds what can be at fault; here is what
is made of it. `install` has FastAPI's `ModelField.validate` keep the first `MOST_LISTED` errors, and the
number of the rest. For a handler of the owner's, they are pydantic's in all they have.

A whole number of a path, a query, a header or a cookie has 64 bits at most, whatever its type says of it:
pydantic's `int` has no bound, and what no `bigint` holds would be the driver's error, a 500. A parameter
that has an upper bound of its own (`le`, `lt`) keeps that one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from time import perf_counter
from typing import Any

from annotated_types import Le, Lt
from fastapi._compat.v2 import ModelField
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from lifeguard.web.strict_json import MOST_VALUES, JSONRefused, pointer_to
from lifeguard.web.turns import turns

MOST_LISTED = 100
"""Errors of one request that its answer lists."""
MOST_MADE = MOST_VALUES
"""Above so many, none is made into words: pydantic makes words of all or none, in 2 us each. There are more
only where values have several: an object without any of its fields, a value that fits no type of a union."""
MOST_BYTES = 48 * 1024
"""Bytes of the list of them."""
LONGEST_WORDS = 200
"""Characters of one error's message, and of its pointer. A name in it may be as long as a body."""

SMALLEST, LARGEST = -(2**63), 2**63 - 1
"""Whole numbers that PostgreSQL's `bigint` holds."""
_PARAMETERS = frozenset(("path", "query", "header", "cookie"))
_NUMBERS = frozenset((int, list, tuple))

_NOT_READ_AS_JSON = "The body was not read as JSON: it needs the header Content-Type: application/json"
"""FastAPI hands over its bytes then, and every field of it is a fault."""

_REST = "lifeguard_rest"
"""Type of the error that sums up all that are not listed; its `ctx` has their number."""

Location = tuple[int | str, ...]


def install() -> None:
    """Have FastAPI validate by this module's rule: for every app of this process, and once."""
    setattr(ModelField, "validate", validate)  # noqa: B010 - a method, to mypy


REFUSED: Any = object()
"""In place of a value, where none was made."""


def accepted(field: ModelField, value: Any, loc: Location) -> Any:
    """What `validate` makes of a value; `REFUSED` if that has errors, of which nothing is said here."""
    try:
        made = field._type_adapter.validate_python(value, from_attributes=True)  # noqa: SLF001
    except ValidationError:
        return REFUSED
    if type(made) in _NUMBERS and loc[0] in _PARAMETERS and _out_of_range(field, made, loc):
        return REFUSED
    return made


def validate(
    field: ModelField, value: Any, _: Mapping[str, Any] | None = None, *, loc: Location = ()
) -> tuple[Any, list[dict[str, Any]]]:
    """FastAPI's own in all but the number of errors."""
    began = perf_counter()
    try:
        made = field._type_adapter.validate_python(value, from_attributes=True)  # noqa: SLF001
    except ValidationError as error:
        errors = _bounded(error, loc)
        turns().charge(perf_counter() - began)
        return None, errors
    if (
        type(made) in _NUMBERS
        and loc
        and loc[0] in _PARAMETERS
        and (errors := _out_of_range(field, made, loc))
    ):
        return None, errors
    return made, []


def _out_of_range(field: ModelField, made: Any, loc: Location) -> list[dict[str, Any]]:
    """An error for each number in a parameter that has more than 64 bits."""
    several = ((loc, made),) if isinstance(made, int) else (((*loc, at), one) for at, one in enumerate(made))
    wrong = [at for at, one in several if type(one) is int and not SMALLEST <= one <= LARGEST]
    if not wrong or any(isinstance(bound, Le | Lt) for bound in field.field_info.metadata):
        return []
    message = f"Input should be from {SMALLEST} to {LARGEST}"
    return [{"type": "int_range", "loc": at, "msg": message, "input": None} for at in wrong[:MOST_LISTED]]


def _bounded(error: ValidationError, loc: Location) -> list[dict[str, Any]]:
    number = error.error_count()
    made = error.errors(include_url=False)[:MOST_LISTED] if number <= MOST_MADE else []
    errors: list[dict[str, Any]] = [{**fault, "loc": (*loc, *fault["loc"])} for fault in made]
    if number > len(made):
        message = f"{number - len(made)} more errors"
        ctx = {"number": number - len(made)}
        errors.append({"type": _REST, "loc": loc, "msg": message, "input": None, "ctx": ctx})
    return errors


def told(error: RequestValidationError) -> tuple[str, list[dict[str, str]]]:
    """Give the sentence and the list for the client. They contain no value of its request."""
    refused = error.__cause__
    if isinstance(refused, JSONRefused):
        return told_of_json(refused)
    errors = error.errors()
    rest = [fault["ctx"]["number"] for fault in errors if fault.get("type") == _REST]
    number = len(errors) - len(rest) + sum(rest)
    faults = list(_listed(fault for fault in errors if fault.get("type") != _REST))
    words = f"{number} error{'s' if number > 1 else ''} in the request"
    if number > len(faults):
        words += f", of which {len(faults) or 'none'} {'is' if len(faults) == 1 else 'are'} listed"
    if isinstance(error.body, bytes) and any(fault["in"] == "body" for fault in faults):
        words += f". {_NOT_READ_AS_JSON}"
    return f"{words}.", faults


def told_of_json(error: JSONRefused) -> tuple[str, list[dict[str, str]]]:
    """Give the sentence and the list for a text that is not JSON."""
    return "1 error in the request.", [{"detail": error.msg, "in": "body", "pointer": _cut(error.pointer)}]


def _listed(errors: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    left = MOST_BYTES
    for fault in islice(errors, MOST_LISTED):
        told = _told(fault)
        left -= len(json.dumps(told, ensure_ascii=False).encode("utf-8", "replace"))
        if left < 0:
            return
        yield told


def _told(fault: Mapping[str, Any]) -> dict[str, str]:
    place, *path = fault.get("loc") or ("body",)
    return {"detail": _words(fault), "in": str(place), "pointer": _cut(pointer_to(_cut_steps(path)))}


def _words(fault: Mapping[str, Any]) -> str:
    """Give pydantic's message, but for the one that repeats what the client has sent."""
    if fault.get("type") == "union_tag_invalid":
        return _cut(f"Input should have a tag among {fault['ctx']['expected_tags']}")
    return _cut(str(fault.get("msg", "")))


def _cut_steps(path: Iterable[int | str]) -> list[int | str]:
    return [step[: LONGEST_WORDS + 1] if isinstance(step, str) else step for step in path]


def _cut(words: str) -> str:
    return words if len(words) <= LONGEST_WORDS else f"{words[: LONGEST_WORDS - 3]}..."
