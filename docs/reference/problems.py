"""Each problem that a client may get, from its class: type, status, when, and whether to ask again."""

from collections.abc import Iterator

from fastapi_problem.error import StatusProblem
from lifeguard.service import Service
from lifeguard.web import problem_texts

from app.main import create_app
from docs.reference.made import service
from docs.reference.tables import made, table

INTRODUCTION = """\
Every error is a problem (RFC 9457), `application/problem+json`: `type`, `title`, `status`, mostly `detail`,
and the `request_id` by which its line is found in the log. Clients decide by `type`, and by `Retry-After`
where there is one. An `HTTPException` of the service's own becomes a problem, too: its type is then made of
the status's phrase. The OpenAPI document at `/docs` says which route answers what."""


class Undescribed(Exception):
    """The engine has a problem that it says nothing of, or says something of one that it does not have."""


COLUMNS = ("type", "status", "title", "when", "ask again")


def page() -> str:
    rows = list(_of(Service))
    if wrong := {str(kind.type_) for kind in rows} ^ problem_texts.WHEN.keys():
        raise Undescribed(f"not the same in web/problems.py and web/problem_texts.py: {sorted(wrong)}")
    return made("Problems", INTRODUCTION, table("All of them", COLUMNS, map(_row, rows)))


def own() -> list[str]:
    """Those of the service's features."""
    return [table("Its problems", COLUMNS, map(_row, _of(create_app)))]


def _of(something: object) -> Iterator[type[StatusProblem]]:
    """Yield the problems of the package that `something` is from."""
    package = something.__module__.partition(".")[0]
    service()  # which has imported them
    for kind in sorted(_problems(StatusProblem), key=lambda kind: (kind.status, kind.type_ or "")):
        if kind.__module__.startswith(f"{package}."):
            yield kind


def _problems(kind: type[StatusProblem]) -> Iterator[type[StatusProblem]]:
    for subclass in kind.__subclasses__():
        if subclass.type_:
            yield subclass
        yield from _problems(subclass)


def _row(kind: type[StatusProblem]) -> tuple[str, ...]:
    """A problem of a feature says in its docstring when it is answered."""
    said = (
        vars(kind).get("__doc__") or "",
        "after `Retry-After`" if "Retry-After" in (kind.headers_ or {}) else "",
    )
    when, again = problem_texts.WHEN.get(str(kind.type_), said)
    return f"`/problems/{kind.type_}`", str(kind.status), kind.title, when, again
