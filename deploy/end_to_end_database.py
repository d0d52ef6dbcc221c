"""A step of `make end-to-end`: what docs/database says of compose is done to the stack.

The database that is served afterwards is the one that was restored. So the ledger's audit is one of it, too.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT, CalledProcessError
from tempfile import TemporaryDirectory

from deploy.documents import blocks

ROOT = Path(__file__).parents[1]
# `docker compose` is what the documents say; docker-compose 1.29 is what some machines have.
_SHIM = 'docker() { if [ "$1" = compose ]; then shift; command %s "$@"; else command docker "$@"; fi; }\n'


async def back_up_and_restore(compose: Sequence[str], variables: Mapping[str, str]) -> None:
    """Dump the ledger, restore it, exchange the two. Raises CalledProcessError after what was said."""
    script = _SHIM % " ".join(compose)
    with TemporaryDirectory() as backups:
        environment = {**os.environ, **variables, "BACKUPS": backups}
        for block in (
            *blocks("backup.md", "A dump", compose=True),
            *blocks("restore.md", "Beside the one that is broken", compose=True),
        ):
            command = ["bash", "-euo", "pipefail", "-c", script + block]
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment, stdout=PIPE, stderr=STDOUT
            )
            output, _ = await process.communicate()
            if process.returncode:
                sys.stderr.write(output.decode())
                raise CalledProcessError(process.returncode, block, output.decode())
