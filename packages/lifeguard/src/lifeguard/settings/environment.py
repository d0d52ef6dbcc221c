"""Where settings come from, and how their faults are told: one readable line each.

Works on any pydantic-settings model whose field names are the lower-case variable names.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

from lifeguard.settings.variables import allowed_values, default_of, fields_by_name, names_of, secret_fields

_LONGEST_VALUE_SHOWN = 60
# What a validator of one's own raises. For the rest the type says what is allowed.
_OF_A_VALIDATOR = frozenset(("value_error", "assertion_error"))
_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@]*:)[^\s/]*@")

secrets_read: deque[str] = deque(maxlen=32)
"""The secrets that were found last outside of the settings, for whoever keeps them out of texts: a password
that was rotated in its file, one of libpq's variables and files."""
tokens_read: deque[str] = deque(maxlen=4)
"""The passwords that functions and commands gave last. They come and go, and push out none of the others."""


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
    source = _Environment(model)
    told = str(source.env_vars.get("app_env") or default_of(model, "app_env"))
    in_production = told.strip().lower() == "production"
    if not in_production:
        source.env_vars = {**DotEnvSettingsSource(model, env_file=".env").env_vars, **source.env_vars}
    variables = source.env_vars
    directory = Path(variables.get("secrets_dir") or str(default_of(model, "secrets_dir")))
    faults = []
    if variables.get("secrets_dir") and not os.path.isdir(directory):  # noqa: PTH112 - it raises nothing
        faults = [_fault("secrets_dir", f"={shown(directory)}: must be a directory")]
    secrets, unread = _secrets_from_files(model, directory, variables)
    source.env_vars = {**secrets, **variables}
    # A field of several names is found by any of them, and told by the first.
    firsts = {
        name: names_of(model, field)[0] for field in model.model_fields for name in names_of(model, field)
    }
    values = {firsts.get(name, name): value for name, value in source().items()}
    password = directory / "database_password"
    given = {"database_password_file", "database_password_command"} & values.keys()
    if not given and not unreadable(password):
        values["database_password_file"] = password
    return Reading(_as_typed(model, values), variables, [*faults, *unread])


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Leave what is no JSON to the validation, which has a line for it where the source would raise."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            return value


def _secrets_from_files(
    model: type[BaseSettings], directory: Path, variables: Mapping[str, str | None]
) -> tuple[dict[str, str], list[Fault]]:
    """Give the secrets named by `<NAME>_FILE`, or lying in the secrets directory, as variables."""
    found, faults = {}, []
    for name, names in secret_fields(model).items():
        given = [other for other in names if variables.get(other.lower()) is not None]
        named, lying = _files_of(model, names, directory, variables)
        if named and given:
            faults.append(_fault(name, f": set either it or {named[0].upper()}, not both"))
        elif named or (lying and not given):
            path = Path(variables[named[0]] or "") if named else lying[0]
            try:
                found[name.lower()] = read_secret(path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "not text"
                faults.append(_fault(name, f"_FILE={shown(path)}: cannot be read ({reason})"))
    return found, faults


def _files_of(
    model: type[BaseSettings], names: tuple[str, ...], directory: Path, variables: Mapping[str, str | None]
) -> tuple[list[str], list[Path]]:
    """The variables that name a file for a secret, and its files in the secrets directory."""
    own = {name.lower() for name in fields_by_name(model)}
    named = [f"{name.lower()}_file" for name in names]
    paths = (directory / name.lower() for name in names)
    return (
        [name for name in named if name not in own and variables.get(name)],
        [path for path in paths if os.path.isfile(path)],  # noqa: PTH113 - it raises nothing
    )


def _as_typed(model: type[BaseSettings], values: dict[str, Any]) -> dict[str, Any]:
    """Give `values` with numbers and booleans where pydantic takes no text for them, in Literals and strict
    types for instance."""
    wrong = {name for fault in _validate(model, values) for name in fault.variables}
    read = {name: scalar for name in wrong if (scalar := _scalar(values.get(name))) is not None}
    if not read:
        return values
    still_wrong = {name for fault in _validate(model, {**values, **read}) for name in fault.variables}
    return {**values, **{name: scalar for name, scalar in read.items() if name not in still_wrong}}


def _scalar(text: object) -> float | bool | None:
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (int, float)) else None


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


_PLACEHOLDER = re.compile(r"(?<!\$)\{[A-Za-z_]\w*\}")
_OF_SHELLS = re.compile(r"^(?:\|\|?|&&?$|\d?[<>]+|;)|\$(?:[({]|[A-Za-z_]\w*)|`|;$")


def usable_command(line: str) -> str:
    """`line` if it is a command line whose program can be run. Raises ValueError."""
    try:
        words = shlex.split(line)
    except ValueError:
        raise ValueError("must be a command line with as many opening as closing quotes") from None
    if not words or shutil.which(words[0]) is None:
        raise ValueError("must begin with a program that this process can run; no shell reads it")
    # With quotes around it, it is for the program, as in sh -c '...'.
    for word in shlex.split(line, posix=False):
        if "'" in word or '"' in word:
            continue
        for name in _PLACEHOLDER.findall(word):
            if name not in PLACEHOLDERS:
                raise ValueError(f"{name} is none of {', '.join(PLACEHOLDERS)}")
        if syntax := _OF_SHELLS.search(word):
            raise ValueError(
                f"no shell reads it: {syntax[0]} goes to the program as an argument; write sh -c '...'"
            )
    return line


PLACEHOLDERS = ("{host}", "{port}", "{user}")
"""What becomes that of the server in DATABASE_PASSWORD_COMMAND."""


def note_secret(secret: str, *, passes: bool = False) -> None:
    """Have `secret` kept out of texts from now on; one that `passes` until a few others came after it."""
    noted = tokens_read if passes else secrets_read
    if secret and secret not in noted:
        noted.append(secret)


def faults_of(model: type[BaseSettings], values: Mapping[str, Any]) -> list[Fault]:
    """Give every fault of `values`: of each alone and, of those that are right, together."""
    faults = _validate(model, values)
    faulty: frozenset[str] = frozenset().union(*(fault.variables for fault in faults))
    rest = {name: value for name, value in values.items() if name not in faulty}
    together = _validate(model, rest) if faulty else []
    return faults + [
        fault for fault in together if faulty.isdisjoint(fault.variables) and fault not in faults
    ]


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
    if "faults" in context:
        return list(context["faults"])
    said = ""
    if not name or details["type"] in _OF_A_VALIDATOR:
        said = _without_secrets(model, str(context.get("error", "")) or details["msg"], values)
    if not name:  # a validator of the whole
        return [Fault(frozenset(), line) for line in said.splitlines()]
    if name not in values and details["type"] == "missing":
        return [_fault(name, ": required")]
    allowed = said or f"must be {allowed_values(model, name)}"
    value = "" if name in secret_fields(model) or name not in values else f"={_shown_of(name, values[name])}"
    return [_fault(name, f"{value}: {line}") for line in allowed.splitlines()]


def _shown_of(name: str, value: object) -> str:
    """Of a command only the program: its arguments may have a secret among them."""
    if name == "database_password_command":
        program, _, arguments = str(value).strip().partition(" ")
        return f"{shown(program)} ..." if arguments else shown(program)
    return shown(value)


def _without_secrets(model: type[BaseSettings], said: str, values: Mapping[str, Any]) -> str:
    """What a validator says, who may have repeated the value."""
    for name in secret_fields(model):
        if value := str(values.get(name, "")):
            said = said.replace(value, "***")
    return said


def _fault(name: str, text: str) -> Fault:
    return Fault(frozenset({name}), f"{name.upper()}{text}")


def shown(value: object) -> str:
    """`value` for a line: without control characters and the passwords of URLs, and not too long."""
    text = _PASSWORD_IN_URL.sub(r"\1***@", str(value))
    shown = text if text.isprintable() and " " not in text else repr(text)
    return shown if len(shown) <= _LONGEST_VALUE_SHOWN else f"{shown[:_LONGEST_VALUE_SHOWN]}..."
