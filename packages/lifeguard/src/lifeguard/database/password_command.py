"""Running the program of DATABASE_PASSWORD_COMMAND: no shell, bounded output, and nothing left of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import IO

from typing_extensions import override

from lifeguard.pool import PasswordUnavailable
from lifeguard.settings.environment import note_secret

LONGEST = 65_536
"""Bytes that it may print: tokens have one or two thousand."""
_LAST_WORDS = 200  # characters of what it wrote to stderr
# Seconds that what it has started, and what still holds its output, has to end by itself once it has.
_GRACE = 0.5
_MAY_BE_SECRET = re.compile(r"[\w+/=.%-]{32,}")


async def run(command: Sequence[str]) -> str:
    """What it prints. It has no input and is a process group of its own, which is killed when this is
    cancelled. Raises PasswordUnavailable, with the last line of its stderr."""
    async with AsyncExitStack() as stack:
        printed, out = await stack.enter_async_context(_reading(LONGEST + 1))
        said, err = await stack.enter_async_context(_reading(LONGEST))
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise PasswordUnavailable(f"the password's command cannot be run: {reason}") from error
        finally:
            out.close()
            err.close()
        try:
            code = await process.wait()
            await _end_of(process.pid, printed, said)
        except BaseException:
            _kill(process.pid)
            await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=_GRACE)
            raise
    return _text(code, bytes(printed.data), bytes(said.data))


class _Output(asyncio.Protocol):
    """The first bytes of what comes out of a pipe; the rest is dropped."""

    def __init__(self, most: int) -> None:
        self.data = bytearray()
        self.ended = asyncio.Event()
        self._most = most

    @override
    def data_received(self, data: bytes) -> None:
        self.data += data[: self._most - len(self.data)]

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


@asynccontextmanager
async def _reading(most: int) -> AsyncIterator[tuple[_Output, IO[bytes]]]:
    """Read from a pipe for the block; its other end is for a child."""
    ours, theirs = os.pipe()
    end = os.fdopen(theirs, "wb", buffering=0)
    try:
        transport, output = await asyncio.get_running_loop().connect_read_pipe(
            lambda: _Output(most), os.fdopen(ours, "rb", buffering=0)
        )
        try:
            yield output, end
        finally:
            transport.close()
    finally:
        end.close()


async def _end_of(group: int, *outputs: _Output) -> None:
    """Wait until nobody can print any more. What the command has left running may hold its output open."""
    for _ in range(2):
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                for output in outputs:
                    await output.ended.wait()
                return
        _kill(group)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _text(code: int, printed: bytes, said: bytes) -> str:
    if code:
        for line in printed.decode(errors="replace").splitlines()[:1]:
            note_secret(line.strip(), passes=True)
        how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        raise PasswordUnavailable(f"the password's command {how}{_last_words(said, printed)}")
    if len(printed) > LONGEST:
        raise PasswordUnavailable(f"the password's command printed more than {LONGEST} bytes")
    try:
        return printed.decode()
    except UnicodeDecodeError:
        raise PasswordUnavailable("the password's command printed no text in UTF-8") from None


def _last_words(said: bytes, printed: bytes) -> str:
    """The last line of its stderr, without what it has printed and what looks like a token."""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    if not lines:
        return ""
    last = "".join(character if character.isprintable() else " " for character in lines[-1].strip())
    for word in printed.decode(errors="replace").split():
        last = last.replace(word, "***")
    return f": {_MAY_BE_SECRET.sub('***', last)[:_LAST_WORDS]}"
