"""The types of the settings' values: what each may be, and the words for what it is not."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic.config import JsonDict

from lifeguard.settings import dsn, environment

SHORTEST_SECRET = 16
"""Characters of a secret that somebody else could try to guess."""


def lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _usable_dsn(value: SecretStr) -> SecretStr:
    if problems := dsn.faults(value.get_secret_value()):
        raise ValueError("\n".join(problems))
    return value


def _usable_dsns(value: SecretStr) -> SecretStr:
    urls = dsn.several(value.get_secret_value())
    if problem := dsn.fault_between(urls):
        raise ValueError(problem)
    if problems := [problem for url in urls for problem in dsn.faults(url)]:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    return value


def long_enough(value: SecretStr) -> SecretStr:
    if not all(len(one) >= SHORTEST_SECRET for one in value.get_secret_value().split() or [""]):
        raise ValueError(f"each secret (spaces separate them) must have {SHORTEST_SECRET} characters or more")
    return value


def _readable_file(path: Path) -> Path:
    if environment.unreadable(path):
        raise ValueError("must be a file that this process can read")
    try:
        environment.read_secret(path)
    except ValueError as error:
        raise ValueError("must be a file of text in UTF-8") from error
    return path


def addresses(value: str) -> str:
    """Refuse what uvicorn would take in silence for the name of a host, and then never meet."""
    for one in [] if value.strip() == "*" else value.split(","):
        try:
            ipaddress.ip_network(one.strip())
        except ValueError:
            raise ValueError("must be addresses and networks with commas, as 10.0.0.0/8, or *") from None
    return value


Dsn = Annotated[SecretStr, AfterValidator(_usable_dsn)]
Dsns = Annotated[SecretStr, AfterValidator(_usable_dsns)]
ReadableFile = Annotated[Path, AfterValidator(_readable_file)]
CommandLine = Annotated[str, AfterValidator(environment.usable_command)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Connections = Annotated[int, Field(ge=1, le=10_000)]
IN_SECONDS: JsonDict = {"unit": "seconds"}
IN_BYTES: JsonDict = {"unit": "bytes"}
# The server counts milliseconds.
Seconds = Annotated[float, Field(ge=0.001, le=86_400, json_schema_extra=IN_SECONDS)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86_400, json_schema_extra=IN_SECONDS)]
Environment = Annotated[Literal["development", "production"], BeforeValidator(lower)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(lower)]
