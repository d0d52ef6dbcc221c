"""The service's own name in place of the starter's.

In the starter the deployed service is called `lifeguard`, as its engine is, and its database `ledger`, as its
example feature is. What is the engine's stays: modules, the distribution, its folder.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST = 30  # what SERVICE_NAME takes
_NOT_NAMES = {"app", "bench", "deploy", "docs", "lifeguard", "migrations", "packages", "template", "tests"}


class ServiceNameRefused(ValueError):
    """The name will not do; the message, a line, says why."""


@dataclass(frozen=True)
class ServiceName:
    """What a service is called, in each of the forms that its files need."""

    dashed: str

    @classmethod
    def of(cls, name: str) -> ServiceName:
        """From what somebody has typed. Raises ServiceNameRefused."""
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
            raise ServiceNameRefused(
                f"{name!r} is no name: small letters, digits and -, a letter first, like my-orders"
            )
        if len(name) > LONGEST:
            raise ServiceNameRefused(f"{name} has {len(name)} letters; {LONGEST} are the most")
        snake = name.replace("-", "_")
        if keyword.iskeyword(snake) or snake in sys.stdlib_module_names:
            raise ServiceNameRefused(f"{name} is a word or a module of Python's own")
        if name in _NOT_NAMES or name == "lifeguard-pg":
            raise ServiceNameRefused(f"{name} is the name of something else here: take another")
        return cls(name)

    @property
    def snake(self) -> str:
        return self.dashed.replace("-", "_")

    @property
    def camel(self) -> str:
        return "".join(part.capitalize() for part in self.dashed.split("-"))

    @property
    def title(self) -> str:
        return self.dashed.replace("-", " ").capitalize()


def renamed(text: str, name: ServiceName, modules: Iterable[str]) -> str:
    """A file of the starter's deployment or documents, with `name`; `modules` are those of the engine."""
    forms = {
        # What is the engine's, and the example feature where it was kept.
        rf"lifeguard-pg\b|(?:packages|src|site-packages)/lifeguard\b|\b(?:from|import) lifeguard\b"
        rf"|\blifeguard\.(?:{'|'.join(sorted(modules)) or '(?!)'})\b"
        r"|\bapp\.ledger\b|\b(?:app|tests)/ledger\b|0001_ledger": None,
        # In variables, in names of alerts and in links to them, in names of series; and everywhere else.
        r"LIFEGUARD": name.snake.upper(),
        r"\bLifeguard(?=[A-Z.\\])": name.camel,
        r"\bLifeguard\b": name.title,
        r"(?<=#)lifeguard(?=[a-z])": name.camel.lower(),
        r"\blifeguard(?=:\w+:\w|_\w|\)\[_:\])": name.snake,
        r"\blifeguard\b": name.dashed,
        # An address, an image, a project, the service; and the database.
        r"\bledger(?=\.example|:\d| \(pyproject)|(?<=SERVICE_NAME=)ledger\b": name.dashed,
        r"(?<![A-Za-z_])ledger(?![A-Za-z_])": name.snake,
    }
    pattern = re.compile("|".join(f"({form})" for form in forms), re.MULTILINE)
    words = list(forms.values())
    return pattern.sub(lambda found: words[(found.lastindex or 1) - 1] or found[0], text)
