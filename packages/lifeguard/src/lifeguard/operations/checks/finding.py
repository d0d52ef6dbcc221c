"""What a check gives: one line of the doctor's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Level = Literal["ok", "warn", "fail", "unknown"]
"""unknown: it could not be looked at. Only `fail` says that the service could not serve as it is meant to."""

LEVELS: tuple[Level, ...] = ("fail", "warn", "unknown", "ok")
JSON_FORMAT = 1
"""Changes when a name in the JSON is taken away or means something else. More names may come without that."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do about it."""

    on: str
    """What was looked at: `service`, `primary`, `replica`, or `replica-2` of several."""
    check: str
    """The check's name, which does not change: a section of docs/doctor.md."""
    level: Level
    finding: str
    """One line, for people."""
    advice: str = ""
    """What to do, where possible what to type."""
    lines: tuple[str, ...] = ()
    """Details, one each."""

    @property
    def topic(self) -> str:
        return f"{self.on} {self.check}"

    def scrubbed(self, scrub: Callable[[str], str]) -> Finding:
        """The same, with each text as `scrub` gives it, and without what would move a terminal's cursor:
        names in a database may have any characters."""

        def clean(text: str) -> str:
            return "".join(char if char.isprintable() else "?" for char in scrub(text))

        return replace(
            self, finding=clean(self.finding), advice=clean(self.advice), lines=tuple(map(clean, self.lines))
        )

    def __str__(self) -> str:
        level = self.level.upper() if self.level == "fail" else self.level
        head = f"{self.on:<10} {self.check:<20} {level:<8}"
        more = [f"{'':<11}{line}" for line in self.lines]
        if self.advice:
            more.append(f"{'':<11}-> {self.advice}")
        return "\n".join([f"{head}{self.finding}", *more])


@dataclass(frozen=True, slots=True)
class Result:
    """What one check has to say; whoever runs it knows where."""

    level: Level
    finding: str
    advice: str = ""
    lines: tuple[str, ...] = ()


def counts(findings: Sequence[Finding]) -> dict[Level, int]:
    """How many there are of each level."""
    found = Counter(finding.level for finding in findings)
    return {level: found[level] for level in LEVELS}


def summary(findings: Sequence[Finding]) -> str:
    """How many of each level there are, and what is not as it should be."""
    told = ", ".join(f"{number} {level}" for level, number in counts(findings).items() if number)
    named = [
        f"{level}: {', '.join(dict.fromkeys(one.topic for one in findings if one.level == level))}"
        for level in ("fail", "warn")
        if any(one.level == level for one in findings)
    ]
    return "\n".join([f"{len(findings)} checks: {told}", *named])


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:  # Any: JSON
    """The report for programs: docs/doctor.md says what each name means."""
    numbers = counts(findings)
    return {
        "format": JSON_FORMAT,
        "level": next((level for level in LEVELS if numbers[level]), "ok"),
        "counts": dict(numbers),
        "findings": [
            {
                "on": one.on,
                "check": one.check,
                "level": one.level,
                "finding": one.finding,
                "advice": one.advice,
                "lines": list(one.lines),
            }
            for one in findings
        ],
    }
