"""Errors for the log: a foreseen one as its class and text, any other with its traceback."""

from __future__ import annotations

import logging

from lifeguard.web.problems import Internal, problem_of

_TOO_LATE = "Caught handled exception, but response already started."
"""Starlette's words for an error that comes when nothing can be answered any more; it is the cause."""


def cause_of(error: Exception) -> Exception:
    """Give what went wrong, without what Starlette and a task group have wrapped around it."""
    while True:
        inner: BaseException | None = None
        if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            inner = error.exceptions[0]
        elif type(error) is RuntimeError and error.args == (_TOO_LATE,):
            inner = error.__cause__
        if not isinstance(inner, Exception):
            return error
        error = inner


def words_of(error: Exception) -> str:
    """Give the error in one line: its class and what it says."""
    name, said = type(error).__name__, str(error)
    return f"{name}: {said}" if said else name


def told(error: Exception, *, foreseen: int = logging.WARNING) -> tuple[int, dict[str, object]]:
    """Give level and fields of its log line: an unforeseen error is logged with its traceback."""
    if problem_of(error).status == Internal.status:
        return logging.ERROR, {"exc_info": error}
    return foreseen, {"error": words_of(error)}
