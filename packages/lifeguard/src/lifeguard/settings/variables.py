"""What a settings model says of its variables: their names, what each may be, its default.

Works on any pydantic-settings model. A variable's name is that of its field, or of the
field's alias, in capitals.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind
from pydantic_core import PydanticUndefined, to_jsonable_python
from pydantic_settings import BaseSettings
from typing_extensions import override

from lifeguard.settings.hidden import holds_secret

_SURELY_A_TYPO = 0.86
# In an `.env` file: a comment, the quotes of a whole value, white space that is dropped.
_READ_OTHERWISE = re.compile(r"\s#|^['\"\s]|\s$")


@functools.cache
def names_of(model: type[BaseSettings], field: str) -> tuple[str, ...]:
    """The names by which the constructor takes `field`; in capitals those of its variable. The first is told.

    Raises TypeError for an alias that is a path into something else.
    """
    alias = model.model_fields[field].validation_alias or field
    names = alias.choices if isinstance(alias, AliasChoices) else [alias]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{model.__name__}.{field}: a variable's alias must be a name, not a path")
    return tuple(map(str, names))


@functools.cache
def fields_by_name(model: type[BaseSettings]) -> Mapping[str, FieldInfo]:
    """Each field, by its first name."""
    return {names_of(model, field)[0]: info for field, info in model.model_fields.items()}


@functools.cache
def secret_fields(model: type[BaseSettings]) -> Mapping[str, tuple[str, ...]]:
    """Each field whose values may have a secret in them: by its first name, all its names."""
    found = (
        names_of(model, field) for field, info in model.model_fields.items() if holds_secret(info.annotation)
    )
    return {names[0]: names for names in found}


class _AnyType(GenerateJsonSchema):
    """JSON Schema that says nothing about a type which has none, where pydantic would raise."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012 - pydantic's name
        "skipped-choice",
        "non-serializable-default",
        "skipped-discriminator",
    }

    @override
    def handle_invalid_for_json_schema(self, schema: object, error_info: str) -> dict[str, Any]:
        return {}


@functools.cache
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of each field, references in it resolved."""
    schema = model.model_json_schema(schema_generator=_AnyType)
    properties: dict[str, Any] = _resolved(schema.get("properties", {}), schema.get("$defs", {}))
    return properties


def _resolved(schema: Any, definitions: Mapping[str, Any]) -> Any:  # JSON
    match schema:
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            # What refers to itself ends in "anything" at the second time.
            rest = {other: definition for other, definition in definitions.items() if other != name}
            return _resolved(definitions.get(name, {}), rest)
        case dict():
            return {name: _resolved(part, definitions) for name, part in schema.items()}
        case list():
            return [_resolved(part, definitions) for part in schema]
        case _:
            return schema


def typos(
    model: type[BaseSettings], variables: Collection[str], own_prefixes: tuple[str, ...]
) -> Iterator[str]:
    """Yield a line for each variable that seems meant for `model` but is none of its own.

    A warning and no fault: the environment is shared, and Kubernetes for one puts variables like
    `POOL_SERVICE_HOST` there for any Service that happens to be called `pool`.
    """
    known = [name.lower() for field in model.model_fields for name in names_of(model, field)]
    known += [f"{name.lower()}_file" for names in secret_fields(model).values() for name in names]
    for name in sorted(set(variables).difference(known)):
        if "_" in name and (close := get_close_matches(name, known, n=1, cutoff=_SURELY_A_TYPO)):
            yield f"{name.upper()}: not a variable of this service; {close[0].upper()} is"
        elif name.startswith(own_prefixes):
            yield f"{name.upper()}: not a variable of this service"


def allowed_values(model: type[BaseModel], name: str) -> str:
    """Say what the field `name` may be, from its type and bounds: `a whole number from 1 to 9`."""
    return _allowed(_properties(model)[name])


_ENDS = {
    "minimum": "from {:.10g}",
    "exclusiveMinimum": "above {:.10g}",
    "maximum": "to {:.10g}",
    "exclusiveMaximum": "below {:.10g}",
}
_SIZES = {
    "minLength": "length at least {}",
    "maxLength": "length at most {}",
    "minItems": "length at least {}",
    "maxItems": "length at most {}",
}
_KINDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list in JSON",
    "null": "nothing",
}
_NAMED_FORMATS = {"password": "a secret", "path": "a path", "date-time": "a date and time", "binary": "bytes"}


def _allowed(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"anyOf": variants} | {"oneOf": variants}:
            return " or ".join(dict.fromkeys(_allowed(one) for one in variants if one != {"type": "null"}))
        case {"const": only}:
            return _as_variable(only)
        case {"enum": choices}:
            return f"one of: {', '.join(map(_as_variable, choices))}"
        case {"type": "string"}:
            return _allowed_text(schema)
        case {"type": "object"}:
            return f"an object in JSON{_members(schema)}{_bounds(schema, _SIZES, ', ')}"
        case _:
            kind = _KINDS.get(schema.get("type", ""), "a value that its type takes")
            return f"{kind}{_items(schema)}{_bounds(schema, _ENDS, ' ')}{_bounds(schema, _SIZES, ', ')}"


def _members(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"properties": dict(parts)} if parts:
            required = schema.get("required", [])
            told = (
                f"{name} ({_allowed(part)}{'' if name in required else ', or left out'})"
                for name, part in parts.items()
            )
            return f": {', '.join(told)}"
        case {"additionalProperties": dict(of)} if of:
            return f", each {_allowed(of)}"
        case _:
            return ""


def _allowed_text(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"pattern": pattern}:
            return f"text like {pattern}"
        case {"format": str(form)}:
            return _NAMED_FORMATS.get(form, f"text of the form {form}")
        case _:
            return f"text{_bounds(schema, _SIZES, ', ')}"


def _bounds(schema: Mapping[str, Any], texts: Mapping[str, str], before: str) -> str:
    return "".join(before + text.format(schema[name]) for name, text in texts.items() if name in schema)


def _items(schema: Mapping[str, Any]) -> str:
    return f", each {_allowed(schema['items'])}" if schema.get("items") else ""


@dataclass(frozen=True, slots=True)
class Variable:
    """What is told of one variable."""

    field: str
    name: str
    meaning: str
    allowed: str
    unit: str
    """`seconds` or `bytes`; empty where there is none, or the meaning says it."""
    default: str
    """As it would be written behind `NAME=`; empty for a secret, and where nothing is set."""


def described(model: type[BaseSettings], *, skip: Collection[str]) -> Iterator[Variable]:
    """Yield every variable of `model` in the order of its fields, but for those to `skip`."""
    for field in model.model_fields:
        if field in skip:
            continue
        name = names_of(model, field)[0]
        secret = name in secret_fields(model)
        yield Variable(
            field=field,
            name=name.upper(),
            meaning=_sentence(model, field),
            allowed=allowed_values(model, name),
            unit=_properties(model)[name].get("unit", ""),
            default="" if secret else _as_variable(default_of(model, field)),
        )


def render_example(model: type[BaseSettings], header: str, *, skip: Collection[str]) -> str:
    """Render an `.env` file that changes nothing: each variable, its sentence, its default."""
    return header + "".join(
        f"\n{_comment(one.meaning)}# ({one.allowed})\n#{one.name}={one.default}\n"
        for one in described(model, skip=skip)
    )


def _sentence(model: type[BaseSettings], name: str) -> str:
    """What a field's description or docstring says, or that of the field which it replaces."""
    bases = (base for base in model.__mro__ if issubclass(base, BaseModel) and name in base.model_fields)
    said = (base.model_fields[name].description or _docstrings(base).get(name) for base in bases)
    return next(filter(None, said), "")


@functools.cache
def _docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """The sentence under each field of this class, none where its source is not to be had.

    pydantic's `use_attribute_docstrings` reads the source whenever the class is made, so at each start.
    """
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except OSError:
        return {}
    of_class = ast.parse(source).body[0]
    assert isinstance(of_class, ast.ClassDef)
    found = {}
    for field, after in pairwise(of_class.body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(sentence))):
                found[name] = inspect.cleandoc(sentence)
    return found


def _comment(sentence: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in sentence.splitlines())


def default_of(model: type[BaseSettings], name: str) -> object:
    """What a field is where nothing is set; None if something must be, or if it is another one each time."""
    own: Mapping[str, object] = getattr(model, "defaults", {})
    if name in own:
        return own[name]
    field = model.model_fields[name]
    try:
        value, again = (field.get_default(call_default_factory=True, validated_data={}) for _ in range(2))
    except Exception:  # noqa: BLE001 - a factory that needs the other fields raises what it will
        return None
    return None if value is PydanticUndefined or value != again else value


def _as_variable(value: object) -> str:
    """`value` as it would be written behind `NAME=`; nothing where no text stands for it."""
    match value:
        case None:
            return ""
        case float() if float(f"{value:g}") == value:
            return f"{value:g}"
    try:
        plain = to_jsonable_python(_in_order(value), fallback=_refuse)
        text = plain if isinstance(plain, str) else json.dumps(plain)
    except ValueError:
        return ""
    if not text.isprintable():
        return json.dumps(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'" if _READ_OTHERWISE.search(text) else text


def _in_order(value: object) -> object:
    """`value` with its sets in an order that is the same each time."""
    match value:
        case BaseModel():
            return _in_order(value.model_dump(by_alias=True))
        case Mapping():
            return {name: _in_order(part) for name, part in value.items()}
        case set() | frozenset():
            return sorted(map(_in_order, value), key=repr)
        case list() | tuple():
            return [_in_order(part) for part in value]
        case _:
            return value


def _refuse(value: object) -> object:
    raise ValueError(f"no text stands for {value!r}")
