"""Each command, from what the command line says of itself."""

import re

import typer
from typer.cli import get_docs_for_click

from app.commands import cli
from docs.reference.tables import made

INTRODUCTION = """\
`python` is `.venv/bin/python` in a checkout, and the image's in a container. `make` without a target lists
what else there is: it needs nothing but Python 3.11 or newer, with venv, and brings the rest into `.venv`."""


def page() -> str:
    command = typer.main.get_command(cli)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="python -m app")
    return made("Commands", INTRODUCTION, re.sub(r"^#", "##", text.strip(), flags=re.MULTILINE))
