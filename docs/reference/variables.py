"""Each variable, from the class `Settings`: its default, unit, what it may be, and what it means."""

import re

from lifeguard import settings as engine
from lifeguard.settings import variables

from app.settings import Settings
from docs.reference.tables import made, table

INTRODUCTION = """\
The service reads its settings from the environment, in development also from a `.env` file, and secrets
also from files: `NAME_FILE=/path`, or a file with the variable's name in small letters in `SECRETS_DIR`. A
value that is wrong stops the start with one line for each fault and exit code 2.
[.env.example](../../.env.example) has the same in the form of a `.env` file, and
[configuration.md](../configuration.md) says what most people set, and how a variable of your own is made.
OpenTelemetry's standard `OTEL_*` variables turn tracing on."""


COLUMNS = ("variable", "default", "unit", "may be", "meaning")
OTHER_DEFAULTS = "The engine's variables, which the service starts with another default."


def page() -> str:
    rows = [_row(variable) for variable in variables.described(engine.Settings, skip=engine.Settings.hidden)]
    return made("Variables", INTRODUCTION, table("All of them", COLUMNS, rows))


def own() -> list[str]:
    """What the service has besides the engine's, and what it changes of these."""
    engines = engine.Settings.model_fields
    told = {variable.field: variable for variable in variables.described(Settings, skip=Settings.hidden)}
    added = [_row(variable) for field, variable in told.items() if field not in engines]
    changed = [
        _row(variable) for field, variable in told.items() if field in Settings.defaults.keys() & engines
    ]
    return [
        table("Its variables", COLUMNS, added),
        table("Its defaults", COLUMNS, changed, OTHER_DEFAULTS),
    ]


def _row(variable: variables.Variable) -> tuple[str, ...]:
    default = f"`{variable.default}`" if variable.default else "none"
    allowed = re.sub(r"text like (\S+)", r"text like `\1`", variable.allowed)
    return f"`{variable.name}`", default, variable.unit, allowed, variable.meaning
