"""Where settings come from, and how their faults are told: one readable line each.

Works on any pydantic-settings model whose field names are the lower-case variable names.
"""

from __future__ import annotations

import functools
import json
import os
import stat
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind
from pydantic_core import ErrorDetails, PydanticUndefined, to_jsonable_python
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource
from typing_extensions import override

_SURELY_A_TYPO = 0.86
_LONGEST_VALUE_SHOWN = 60

secrets_read: deque[str] = deque(maxlen=32)
"""The secrets that were found last outside of the settings, for whoever keeps them out of texts: a password
that was rotated in its file, one of libpq's variables and files."""


class Fault(NamedTuple):
    """One readable line about the variables it names."""

    variables: frozenset[str]
    line: str


class Reading(NamedTuple):
    """What was found: values by field, every variable by lower-case name, and first faults."""

    values: dict[str, Any]
    variables: Mapping[str, str | None]
    faults: list[Fault]


def read(model: type[BaseSettings]) -> Reading:
    """Read the environment, then `.env` (not in production), then secret files: first wins."""
    environment = _Environment(model)
    in_production = (environment.env_vars.get("app_env") or "").strip().lower() == "production"
    dotenv = _DotEnv(model, env_file=None if in_production else ".env")
    variables = {**dotenv.env_vars, **environment.env_vars}
    values = {**dotenv(), **environment()}
    return Reading(values, variables, list(_take_secrets_from_files(model, values, variables)))


class _AsText:
    """Leaves what is no JSON to the validation, which has a line for it where the source would raise."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)  # type: ignore[misc]  # a source's
        except ValueError:
            return value


class _Environment(_AsText, EnvSettingsSource):
    pass


class _DotEnv(_AsText, DotEnvSettingsSource):
    pass


def _take_secrets_from_files(
    model: type[BaseSettings], values: dict[str, Any], variables: Mapping[str, str | None]
) -> Iterator[Fault]:
    """Add secrets named by `<NAME>_FILE`, or lying in the secrets directory, to `values`."""
    default = model.model_fields["secrets_dir"].default
    directory = Path(values.get("secrets_dir", default))
    if "secrets_dir" in values and not os.path.isdir(directory):  # noqa: PTH112 - it raises nothing
        yield _fault("secrets_dir", f"={shown(directory)}: must be a directory")
    for name in _secret_fields(model):
        named = variables.get(f"{name}_file")
        if named and name in values:
            yield _fault(name, f": set either it or {name.upper()}_FILE, not both")
        elif named or (name not in values and os.path.isfile(directory / name)):  # noqa: PTH113 - the same
            path = Path(named) if named else directory / name
            try:
                values[name] = read_secret(path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "not text"
                yield _fault(name, f"_FILE={shown(path)}: cannot be read ({reason})")
    password = directory / "database_password"
    if "database_password_file" not in values and not unreadable(password):
        values["database_password_file"] = password


def unreadable(path: Path) -> str | None:
    """Why this process cannot read the file `path`; None if it can."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a file"
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror or type(error).__name__
    except ValueError:  # no path at all: a NUL in it
        return "not a path"
    return None


def read_secret(path: Path) -> str:
    """Give the text of a secret file without the line end that editors leave. Raises OSError, ValueError."""
    secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    note_secret(secret)
    return secret


def note_secret(secret: str) -> None:
    """Have `secret` kept out of texts from now on."""
    if secret and secret not in secrets_read:
        secrets_read.append(secret)


def faults_of(model: type[BaseSettings], values: Mapping[str, Any]) -> list[Fault]:
    """Give every fault of `values`: of each alone and, of those that are right, together."""
    faults = _validate(model, values)
    faulty: frozenset[str] = frozenset().union(*(fault.variables for fault in faults))
    rest = {name: value for name, value in values.items() if name not in faulty}
    return faults + [fault for fault in _validate(model, rest) if faulty.isdisjoint(fault.variables)]


def _validate(model: type[BaseSettings], values: Mapping[str, Any]) -> list[Fault]:
    try:
        model(**values)
    except ValidationError as error:
        found: dict[str, list[Fault]] = {}
        for details in error.errors(include_url=False):
            name = str(details["loc"][0]) if details["loc"] else ""
            if details["type"] != "default_factory_not_called":  # says only that others failed
                found.setdefault(name, _faults_in(model, name, details, values))
        return [fault for faults in found.values() for fault in faults]
    return []


def _faults_in(
    model: type[BaseSettings], name: str, details: ErrorDetails, values: Mapping[str, Any]
) -> list[Fault]:
    context = details.get("ctx", {})
    if not name:
        return list(context["faults"])
    if name not in values:
        return [_fault(name, ": required")]
    if details["type"] == "value_error":
        allowed = str(context["error"])
    else:
        allowed = f"must be {allowed_values(model, name)}"
    value = "" if name in _secret_fields(model) else f"={shown(values[name])}"
    return [_fault(name, f"{value}: {line}") for line in allowed.splitlines()]


def _fault(name: str, text: str) -> Fault:
    return Fault(frozenset({name}), f"{name.upper()}{text}")


def shown(value: object) -> str:
    """`value` for a line: without control characters, and not too long."""
    text = str(value)
    shown = text if text.isprintable() and " " not in text else repr(text)
    return shown if len(shown) <= _LONGEST_VALUE_SHOWN else f"{shown[:_LONGEST_VALUE_SHOWN]}..."


def _secret_fields(model: type[BaseSettings]) -> list[str]:
    return [name for name, field in _properties(model).items() if _holds_secret(field)]


def _holds_secret(schema: object) -> bool:
    match schema:
        case {"format": "password"}:
            return True
        case dict():
            return any(_holds_secret(part) for part in schema.values())
        case list():
            return any(map(_holds_secret, schema))
        case _:
            return False


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
def _properties(model: type[BaseSettings]) -> dict[str, Any]:
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
    fields = model.model_fields.keys()
    known = [*fields, *(f"{name}_file" for name in _secret_fields(model))]
    for name in sorted(set(variables).difference(known)):
        close = get_close_matches(name, known, n=1, cutoff=_SURELY_A_TYPO)
        if close and "_" in name:
            yield f"{name.upper()}: not a variable of this service; {close[0].upper()} is"
        elif name.startswith(own_prefixes):
            yield f"{name.upper()}: not a variable of this service"


def allowed_values(model: type[BaseSettings], name: str) -> str:
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
    "object": "an object in JSON",
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
        case _:
            kind = _KINDS.get(schema.get("type", ""), "a value that its type takes")
            return f"{kind}{_items(schema)}{_bounds(schema, _ENDS, ' ')}{_bounds(schema, _SIZES, ', ')}"


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


def render_example(model: type[BaseSettings], header: str, *, skip: Collection[str]) -> str:
    """Render an `.env` file that changes nothing: each variable, its sentence, its default."""
    return header + "".join(
        f"\n{_comment(field.description)}# ({allowed_values(model, name)})\n"
        f"#{name.upper()}={_as_variable(_default(field))}\n"
        for name, field in model.model_fields.items()
        if name not in skip
    )


def _comment(description: str | None) -> str:
    return "".join(f"# {line}\n" for line in (description or "").splitlines())


def _default(field: FieldInfo) -> object:
    """What the field is where nothing is set; None if something must be."""
    value = field.get_default(call_default_factory=True, validated_data={})
    return None if value is PydanticUndefined else value


def _as_variable(value: object) -> str:
    """`value` as it would be written behind `NAME=`."""
    match value:
        case None | SecretStr() | SecretBytes():
            return ""
        case float() if float(f"{value:g}") == value:
            return f"{value:g}"
    plain = to_jsonable_python(value, fallback=str)
    text = plain if isinstance(plain, str) else json.dumps(plain)
    return text if text.isprintable() else json.dumps(text)
