"""The image: what goes in, who it runs as, and the probe that asks whether it is well."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from lifeguard.testing.servers import unused_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROBE = ROOT / "deploy/probe.py"


def test_the_build_gets_what_it_uses_and_no_more() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    used = [re.sub(r"[][]", "", name) for names in copied for name in names.split()]
    used += re.findall(r"--mount=source=([^,]+),", DOCKERFILE)
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == set(used)


def test_secrets_are_handed_to_the_user_that_the_service_runs_as() -> None:
    user = re.findall(r"^USER (\d+:\d+)$", DOCKERFILE, re.MULTILINE)
    assert [f"app | migrate) owner={user[0]} ;;"] == re.findall(
        r"app \| migrate.*", (ROOT / "deploy/secrets/generate").read_text()
    )


class Half(BaseHTTPRequestHandler):
    """Well when asked one way, not when asked another."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


class TestProbe:
    @pytest.fixture
    def port(self) -> Iterator[int]:
        with HTTPServer(("127.0.0.1", 0), Half) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield server.server_port
            server.shutdown()
            thread.join()

    def ask(self, port: int, path: str) -> int:
        command = [sys.executable, "-I", "-S", str(PROBE), path]
        return subprocess.run(
            command, env={"PORT": str(port)}, stderr=subprocess.DEVNULL, check=False
        ).returncode

    def test_says_what_the_service_says(self, port: int) -> None:
        assert self.ask(port, "/well") == 0
        assert self.ask(port, "/unwell") == 1

    def test_takes_silence_for_a_no(self) -> None:
        assert self.ask(unused_port(), "/well") == 1
