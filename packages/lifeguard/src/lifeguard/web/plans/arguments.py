"""What a function of a route takes from a request: found out once, read for each request.

The fields that are a single value each are read here. What needs more (models, lists, cookies, several
bodies) is read by FastAPI's own functions. Nothing is said of what is not valid: FastAPI does that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from fastapi._compat import field_annotation_is_sequence
from fastapi._compat.v2 import ModelField
from fastapi.dependencies import utils
from fastapi.dependencies.models import Dependant

from lifeguard.web.plans.asked import Asked
from lifeguard.web.validation import REFUSED, accepted

_CONSTANT = frozenset((type(None), bool, int, float, str, bytes))
_MISSING = object()

_Reader = Callable[[Asked, dict[str, Any]], bool]
"""Reads some of the arguments. False: FastAPI is to say what is wrong, or to find out."""


class Arguments:
    """Those of one function, an endpoint or a dependency."""

    __slots__ = ("_bodies", "_embeds_body", "_readers", "reads_body", "reads_parameters")

    def __init__(self, dependant: Dependant, *, embeds_body: bool) -> None:
        self._readers: tuple[_Reader, ...] = (
            *_readers(dependant.path_params, _from_path, _all_of_path),
            *_readers(dependant.query_params, _from_query, _all_of_query),
            *_readers(dependant.header_params, _from_headers, _all_of_headers),
            *_readers(dependant.cookie_params, None, _all_of_cookies),
        )
        self.reads_parameters = bool(self._readers)
        """Whether of path, query, headers or cookies."""
        self._bodies = list(dependant.body_params)
        self.reads_body = bool(self._bodies)
        self._embeds_body = embeds_body
        if len(self._bodies) == 1 and not embeds_body:
            self._readers += (_whole_body(self._bodies.pop()),)

    async def read(self, asked: Asked) -> dict[str, Any] | None:
        """The arguments; None if something is not valid, or was not found out."""
        values: dict[str, Any] = {}
        for reader in self._readers:
            if not reader(asked, values):
                return None
        if self._bodies:
            found, errors = await utils.request_body_to_args(
                body_fields=self._bodies,
                received_body=asked.document,
                embed_body_fields=self._embeds_body,
            )
            if errors:
                return None
            values.update(found)
        return values


_Single = Callable[[ModelField], _Reader]
_Together = Callable[[list[ModelField]], _Reader]


def _readers(fields: Sequence[ModelField], single: _Single | None, together: _Together) -> list[_Reader]:
    """One for each field of a place, or one for all of them."""
    if not fields:
        return []
    if single is None or not all(map(_is_single, fields)):
        return [together(list(fields))]
    return [single(field) for field in fields]


def _is_single(field: ModelField) -> bool:
    """Whether it is one value, that has one name in a request."""
    return (
        utils._get_param_model(field) is None  # noqa: SLF001 - see tests' web/test_internals.py
        and not field_annotation_is_sequence(field.field_info.annotation)
        and len(utils._get_param_aliases(field)) == 1  # noqa: SLF001
    )


def _name_of(field: ModelField) -> str:
    return utils._get_param_aliases(field)[0][1]  # noqa: SLF001


def _from_path(field: ModelField) -> _Reader:
    name = _name_of(field)
    return _read_by(field, ("path", name), lambda asked: asked.path_params.get(name))


def _from_query(field: ModelField) -> _Reader:
    name = _name_of(field)
    return _read_by(field, ("query", name), lambda asked: asked.query.get(name))


def _from_headers(field: ModelField) -> _Reader:
    name = _name_of(field)
    as_sent = name.lower().encode("latin-1")
    return _read_by(field, ("header", name), lambda asked: asked.header(as_sent))


def _read_by(field: ModelField, location: tuple[str, ...], said_in: Callable[[Asked], Any]) -> _Reader:
    """`said_in` gives the value that a request has; None if it has none."""
    name, default = field.name, _default(field)

    def read(asked: Asked, values: dict[str, Any]) -> bool:
        said = said_in(asked)
        values[name] = made = accepted(field, said, location) if said is not None else default()
        return made is not REFUSED

    return read


def _default(field: ModelField) -> Callable[[], Any]:
    """What gives the value of a parameter that a request has not."""
    info = field.field_info
    if info.is_required() or info.validate_default:
        return _refuse
    if info.default_factory is None and type(info.default) in _CONSTANT:
        constant = info.default
        return lambda: constant
    return lambda: deepcopy(field.default)


def _refuse() -> Any:
    return REFUSED


def _all_of_path(fields: list[ModelField]) -> _Reader:
    return _together(fields, lambda asked: asked.path_params)


def _all_of_query(fields: list[ModelField]) -> _Reader:
    return _together(fields, lambda asked: asked.request.query_params)


def _all_of_headers(fields: list[ModelField]) -> _Reader:
    return _together(fields, lambda asked: asked.request.headers)


def _all_of_cookies(fields: list[ModelField]) -> _Reader:
    return _together(fields, lambda asked: asked.request.cookies)


def _together(fields: list[ModelField], source: Callable[[Asked], Mapping[str, Any]]) -> _Reader:
    def read(asked: Asked, values: dict[str, Any]) -> bool:
        found, errors = utils.request_params_to_args(fields, source(asked))
        values.update(found)
        return not errors

    return read


def _whole_body(field: ModelField) -> _Reader:
    name, location = field.name, ("body",)

    def read(asked: Asked, values: dict[str, Any]) -> bool:
        values[name] = made = accepted(field, asked.document, location)
        return made is not REFUSED

    return read
