"""What a feature is called, in each of the forms that its files need."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from dataclasses import dataclass

LONGEST = 20  # letters: any such name leaves the files formatted

# pg_get_keywords() of PostgreSQL 18: what no table can be called without quotes.
_RESERVED = """
all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate
collation column concurrently constraint create cross current_catalog current_date current_role
current_schema current_time current_timestamp current_user default deferrable desc distinct do else end
except false fetch for foreign freeze from full grant group having ilike in initially inner intersect
into is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null
offset on only or order outer overlaps placing primary references returning right select session_user
similar some symmetric system_user table tablesample then to trailing true union unique user using
variadic verbose when where window with
"""
RESERVED = frozenset(_RESERVED.split())

_NOT_PLAIN = (
    # No plural, or one whose letters do not give the singular away: heroes and shoes, wolves and moves.
    re.compile(r"(?:ss|us|is|[^s]ses|zzes|[ao]es|ves|[^s]|^s)$"),
    re.compile(r"(?:^|_)(?:series|species|cookies|movies|news|caches)$"),
)
_ENDINGS = (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("s", ""))


class NameRefused(ValueError):
    """The name will not do; the message, a line, says why and what would."""


@dataclass(frozen=True)
class Names:
    """Of a feature, in snake case: `plural` is its folder, its table and its path, `singular` a row of it."""

    plural: str
    singular: str

    @classmethod
    def of(cls, name: str, singular: str = "") -> Names:
        """From what somebody has typed. Raises NameRefused."""
        name, singular = name.strip(), singular.strip()
        if not name:
            raise NameRefused("a feature needs a name, the plural of what it is about: NAME=invoices")
        for given in (name, singular):
            if given and not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", given):
                raise NameRefused(f"{given!r} is no name: small letters, digits and _, a letter first")
            if len(given) > LONGEST:
                raise NameRefused(f"{given} has {len(given)} letters; {LONGEST} are the most")
        plural, one = (text.replace("-", "_") for text in (name, singular))
        one = one or _singular_of(plural)
        if one == plural:
            raise NameRefused(f"{plural} is one and many: name the many otherwise, as in {plural}_records")
        _check(plural)
        if keyword.iskeyword(_camel(one)):
            raise NameRefused(f"{_camel(one)} is a word of Python: no class can be called so")
        return cls(plural, one)

    @property
    def with_article(self) -> str:
        return f"{'an' if self.singular[0] in 'aeiou' else 'a'} {self.singular}"

    def replaced_in(self, text: str) -> str:
        """A file's text, which is about widgets, about this."""
        spoken = self.plural.replace("_", " ")
        words = {
            "wid-gets": self.plural.replace("_", "-"),
            "wid gets": spoken,
            "wid get": self.singular.replace("_", " "),
            "a_widget": self.with_article.replace(" ", "_"),
            "Widgets": spoken.capitalize(),
            "Widget": _camel(self.singular),
            "WIDGETS": self.plural.upper(),
            "WIDGET": self.singular.upper(),
            "widgets": self.plural,
            "widget": self.singular,
        }
        return re.sub("|".join(words), lambda found: words[found[0]], text)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _singular_of(plural: str) -> str:
    if not any(pattern.search(plural) for pattern in _NOT_PLAIN):
        many, one = next(ending for ending in _ENDINGS if plural.endswith(ending[0]))
        return plural.removesuffix(many) + one
    raise NameRefused(
        f"the singular of {plural} is not plain from its letters: say SINGULAR=, as in"
        " NAME=people SINGULAR=person"
    )


def _check(plural: str) -> None:
    if keyword.iskeyword(plural):
        raise NameRefused(f"{plural} is a word of Python: no folder can be called so")
    if plural in RESERVED:
        raise NameRefused(f"{plural} is a word of SQL: no table can be called so without quotes")
    if plural in sys.stdlib_module_names:
        raise NameRefused(
            f"{plural} is a module of Python's standard library, for which app.{plural} would be taken"
        )
    if plural in vars(builtins):
        raise NameRefused(f"{plural} is a function of Python's own, which app/main.py would lose")
    if plural in {"app", "lifeguard", "main", "settings", "commands", "tests", "migrations", "deploy"}:
        raise NameRefused(f"{plural} is a name that every service has in use: take another")
    if plural == "alembic_version" or plural.startswith("pg_"):
        raise NameRefused(
            f"{plural} is a table of {'PostgreSQL' if plural.startswith('pg_') else 'Alembic'}'s own"
        )
