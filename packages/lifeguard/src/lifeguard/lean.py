"""FastAPI and structlog, imported for less than they would cost: what a process imports first imports this.

- FastAPI builds the validators of its OpenAPI models when it is imported, for a
  page that production does not serve. Here each is built at its first use.
- FastAPI imports pydantic.v1 to find out whether a type or an object is of it, which it refuses. Here it asks
  only when somebody else has imported that: before, nothing can be.
- structlog imports what it finds installed: rich for tracebacks in colours (this service writes its own, in
  `lifeguard.observability.bounds`), greenlet for `structlog.threadlocal`, which asyncio has no use for, and
  colorama, which it uses on Windows only. What of structlog needs rich says that it is not installed.

A library that somebody has imported before is left as it is, and so is a FastAPI that has other names by now.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

from pydantic import BaseModel


@contextmanager
def _models_built_at_first_use() -> Iterator[None]:
    build = BaseModel.__dict__["model_rebuild"]

    def build_when_used(model: type[BaseModel], /, **options: Any) -> bool | None:  # Any: pydantic's
        """Leave it where FastAPI asks for it, without options; pydantic itself, at a first use, has some."""
        return build.__get__(None, model)(**options) if options else None

    BaseModel.model_config["defer_build"] = True  # which subclasses inherit
    BaseModel.model_rebuild = classmethod(build_when_used)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del BaseModel.model_config["defer_build"]
        BaseModel.model_rebuild = build  # type: ignore[method-assign]


@contextmanager
def _as_if_not_installed(*names: str) -> Iterator[None]:
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # what import understands as "there is none"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _ask_of_v1_once_it_is_imported(module: ModuleType | None, name: str) -> None:
    check: Callable[[object], bool] | None = getattr(module, name, None)
    if check is None:  # a FastAPI that does it otherwise
        return

    @wraps(check)
    def is_of_v1(checked: object) -> bool:
        return "pydantic.v1" in sys.modules and check(checked)

    setattr(module, name, is_of_v1)


with _models_built_at_first_use():
    import fastapi.encoders

_ask_of_v1_once_it_is_imported(sys.modules.get("fastapi._compat.shared"), "is_pydantic_v1_model_class")
_ask_of_v1_once_it_is_imported(fastapi.encoders, "is_pydantic_v1_model_instance")

with _as_if_not_installed("rich", "greenlet", *(() if sys.platform == "win32" else ("colorama",))):
    import structlog  # noqa: F401
