"""Which values of a settings model are secrets, and which types hold some."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import unquote

from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from typing_extensions import TypeAliasType, is_typeddict

_SECRET = (SecretStr, SecretBytes, Secret)
_CONTAINERS = (list, tuple, set, frozenset)
# user:password@ in the hosts of a URL, of which there may be several.
_HOSTS = re.compile(r"://([^/?#\s]*)")


def secrets_in(value: object) -> Iterator[str]:
    """Yield every secret in `value`, as it would be found in a text: what pydantic's secret types hold, in
    models, dataclasses and containers of any depth, and the passwords of URLs that are no secrets."""
    if isinstance(value, _SECRET):
        yield from _texts(value.get_secret_value())
    elif isinstance(value, str) or hasattr(value, "scheme"):  # pydantic's URLs have no common class
        yield from _passwords(str(value))
    else:
        for part in _parts(value):
            yield from secrets_in(part)


def _texts(secret: object) -> Iterator[str]:
    """Yield what is in a secret."""
    parts = list(_parts(secret))
    if isinstance(secret, bytes):
        yield secret.decode(errors="backslashreplace")
    elif parts:
        for part in parts:
            yield from _texts(part)
    elif secret is not None and not isinstance(secret, (bool, *_CONTAINERS, Mapping)):
        yield str(secret)
        yield from _passwords(str(secret))


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, BaseModel):
        yield from (part for _, part in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, field.name) for field in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, _CONTAINERS):
        yield from value
    elif isinstance(value, _SECRET):
        yield value.get_secret_value()


def _passwords(text: str) -> Iterator[str]:
    """Yield the passwords of the URLs in `text`, as written there and as its server sees them."""
    for hosts in _HOSTS.findall(text) if "@" in text else ():
        whole, others = hosts.rpartition("@")[0], hosts.split("@")[:-1]
        # Each host may have a login of its own. An `@` in a password is wrong, and seen.
        for login in (whole, *others[:1], *(other.rpartition(",")[2] for other in others[1:])):
            password = login.partition(":")[2]
            yield from (password, unquote(password))


def holds_secret(annotation: Any, seen: frozenset[object] = frozenset()) -> bool:  # Any: of any type
    """Whether a value of this type may have a secret in it."""
    if isinstance(annotation, TypeAliasType):
        return annotation not in seen and holds_secret(annotation.__value__, seen | {annotation})
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type):
        if issubclass(kind, _SECRET):
            return True
        if kind is annotation and kind in seen:  # a model that has itself in it
            return False
    parts = (*get_args(annotation), *_members(annotation))
    return any(holds_secret(part, seen | {kind}) for part in parts if not isinstance(part, _VALUES))


_VALUES = (str, bytes, int, bool, Enum, list, type(None))
"""What stands in the brackets of a type and is none: what a Literal allows, a Callable's arguments."""


def _members(annotation: Any) -> Iterator[Any]:  # Any: of any type
    """Yield the types of what a model, a dataclass, a TypedDict or a named tuple consists of."""
    if not isinstance(annotation, type):
        return
    if issubclass(annotation, BaseModel):
        yield from (field.annotation for field in annotation.model_fields.values())
    elif dataclasses.is_dataclass(annotation) or is_typeddict(annotation) or hasattr(annotation, "_fields"):
        yield from get_type_hints(annotation, include_extras=True).values()
