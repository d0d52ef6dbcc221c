"""A step of `make end-to-end`: what docs/database says of compose is done to the stack.

The database that is served afterwards is the one that was restored. So the ledger's audit is one of it, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from tempfile import TemporaryDirectory

from deploy.documents import blocks

# `docker compose` is what the documents say; docker-compose 1.29 is what some machines have.
_SHIM = 'docker() { if [ "$1" = compose ]; then shift; command %s "$@"; else command docker "$@"; fi; }\n'


async def back_up_and_restore(run: Callable[..., Awaitable[str]], compose: Sequence[str]) -> None:
    """Dump the ledger, restore it, exchange the two. `run` runs a command; what it raises passes through."""
    shim = _SHIM % " ".join(compose)
    with TemporaryDirectory() as backups:
        for block in (
            *blocks("backup.md", "A dump", compose=True),
            *blocks("restore.md", "Beside the one that is broken", compose=True),
        ):
            await run("env", f"BACKUPS={backups}", "bash", "-euo", "pipefail", "-c", shim + block)
