"""A PostgreSQL server that lives as long as one run of a benchmark."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lifeguard.development.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def throwaway_postgres() -> Iterator[EmbeddedServer]:
    """A fresh server with PostgreSQL's own settings; gone afterwards, data and all."""
    with (
        TemporaryDirectory(prefix="bench-") as directory,
        EmbeddedServer(Path(directory), disposable=True) as server,
    ):
        yield server
