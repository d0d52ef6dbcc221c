"""`python -m docs.typed docs/tutorial.md`: type a page as a newcomer would, from a clone to its last line.

What the page says is done, in its order: shell blocks are typed, what `console` blocks show must come, and
files are written where the page says "A new file, `path`:" or "At the end of `path`:". A block marked `sh
fails` must fail, and `sh stays` goes on, as in a second terminal, until the page says to press Ctrl-C. Only
the port is another one, for 8000 may be taken. At the end it prints how long the machine took, reading and
typing left out.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from socket import create_server
from threading import Thread
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
UP = "Ctrl-C drains"
"""What `make run` says when it serves."""

_BLOCK = re.compile(r"^```(\w+)( fails| stays| arrives)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(A new file, |At the end of )`([^`]+)`:$")
_CHANGES = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z|\b[0-9a-f]{32}\b")


class Step(NamedTuple):
    """One block of a page."""

    language: str
    mark: str
    text: str
    before: str
    """The line above it."""


class PageIsWrong(Exception):
    """What the page says does not happen."""


def steps(page: str) -> Iterator[Step]:
    """Yield the blocks of a page, and the lines that say to press Ctrl-C."""
    end = 0
    for block in _BLOCK.finditer(page):
        between = page[end : block.start()].strip()
        if "Ctrl-C" in between:
            yield Step("key", "", "Ctrl-C", "")
        yield Step(block[1], (block[2] or "").strip(), block[3], between.rpartition("\n")[2])
        end = block.end()
    if "Ctrl-C" in page[end:]:
        yield Step("key", "", "Ctrl-C", "")


class Reader:
    """Somebody who does what a page says, in a folder that is empty at first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with create_server(("127.0.0.1", 0)) as server:
            self._port = str(server.getsockname()[1])
        removed = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV", "DATABASE_URL")
        self._environment = {name: value for name, value in os.environ.items() if name not in removed}
        self._environment |= {"PORT": self._port, "LIFEGUARD": str(ROOT)}
        for who in ("AUTHOR", "COMMITTER"):  # who reads has told git who it is
            self._environment |= {f"GIT_{who}_NAME": "reader", f"GIT_{who}_EMAIL": "reader@localhost"}
        self._running: subprocess.Popen[str] | None = None
        self._rest = Thread()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.press_ctrl_c()

    @property
    def is_waiting(self) -> bool:
        """Whether something goes on in a second terminal."""
        return self._running is not None and self._running.poll() is None

    def follow(self, step: Step) -> None:
        """Do what one block says. Raises PageIsWrong."""
        where = _FILE.search(step.before)
        match step:
            case Step("key"):
                self.press_ctrl_c()
            case Step("sh", "stays"):
                self._start(step.text)
            case Step("sh", mark):
                code, _ = self._type(step.text)
                if (code != 0) != (mark == "fails"):
                    raise PageIsWrong(f"exit code {code} of:\n{step.text}")
            case Step("console"):
                self._compare(step.text)
            case _ if where:
                path = self._folder / where[2]
                path.parent.mkdir(parents=True, exist_ok=True)
                appended = where[1].startswith("At the end")
                with path.open("a" if appended else "x", encoding="utf-8") as file:
                    file.write(f"\n\n{step.text}" if appended else step.text)

    def press_ctrl_c(self) -> None:
        """Press it in the terminal where something goes on, and wait for its end."""
        if self._running is None:
            return
        with self._running as ending, suppress(ProcessLookupError):
            os.killpg(ending.pid, signal.SIGINT)
            self._rest.join()
        self._running = None

    def _type(self, commands: str) -> tuple[int, str]:
        """Have a shell run `commands`, the next one begin where this one ended."""
        commands = commands.replace("localhost:8000", f"localhost:{self._port}")
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as at:
            done = subprocess.run(  # noqa: S603 - the page's own commands
                ["/bin/bash", "-e", "-c", f'{commands}\npwd > "$0"', at.name],
                cwd=self._folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=sys.stderr,
                text=True,
                check=False,
            )
            self._folder = Path(at.read().strip() or self._folder)
        sys.stdout.write(done.stdout)
        return done.returncode, done.stdout

    def _compare(self, text: str) -> None:
        for command, shown in re.findall(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            code, printed = self._type(command)
            wanted = "".join(
                "(?:.*\n)*?" if line == "...\n" else re.escape(_CHANGES.sub("~", line))
                for line in shown.rstrip("\n").splitlines(keepends=True)
            )
            if code or not re.fullmatch(wanted + r"\s*", _CHANGES.sub("~", printed)):
                raise PageIsWrong(f"`{command}` prints (exit code {code})\n{printed}\nnot\n{shown}")

    def _start(self, command: str) -> None:
        self._running = subprocess.Popen(  # noqa: S603 - the page's own command
            ["/bin/bash", "-e", "-c", f"exec {command}"],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._running.stdout
        for line in self._running.stdout:
            sys.stdout.write(line)
            if UP in line:
                self._rest = Thread(target=self._running.stdout.read)  # or the pipe gets full
                self._rest.start()
                return
        self._running.communicate()
        self._running = None
        raise PageIsWrong(f"ended without serving: {command}")


def main() -> None:
    page = Path(sys.argv[1]).read_text(encoding="utf-8")
    began = time.monotonic()
    arrived = 0.0
    with ExitStack() as until_the_end:
        folder = Path(until_the_end.enter_context(tempfile.TemporaryDirectory()))
        reader = until_the_end.enter_context(Reader(folder))
        for step in steps(page):
            sys.stdout.write(f"\n-- {time.monotonic() - began:.0f} s: {step.text.splitlines()[0]}\n")
            sys.stdout.flush()
            reader.follow(step)
            if step.mark == "arrives":
                arrived = time.monotonic() - began
        there = f"there after {arrived:.0f} s" if arrived else "typed"
        sys.stdout.write(
            f"\n{sys.argv[1]}: {there}, all of it {time.monotonic() - began:.0f} s of machine time\n"
        )


if __name__ == "__main__":
    main()
