"""Which images are behind, by a registry that speaks as the public ones do (API v2, `tags/list`)."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from lifeguard.testing.servers import unused_port

from deploy import outdated
from deploy.outdated import Image, Standing
from tests.processes import ROOT

CURRENT = {image.repository: [image.tag] for image in map(Image.parse, outdated.named())}


class Registry(BaseHTTPRequestHandler):
    """Wants a token, and gives two tags at a time."""

    tags: dict[str, list[str]]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/token":
            self.answer(200, {"token": query["scope"]})
            return
        repository = url.path.removeprefix("/v2/").removesuffix("/tags/list")
        scope = f"repository:{repository}:pull"
        if self.headers["authorization"] != f"Bearer {scope}":
            host = self.headers["host"]
            realm = f'Bearer realm="http://{host}/token",service="test",scope="{scope}"'
            self.answer(401, {}, ("WWW-Authenticate", realm))
        elif repository not in self.tags:
            self.answer(404, {"errors": []})
        else:
            begin = int(query.get("last", "0"))
            tags = self.tags[repository]
            following = f'<{url.path}?last={begin + 2}>; rel="next"'
            more = [("Link", following)] if begin + 2 < len(tags) else []
            self.answer(200, {"name": repository, "tags": tags[begin : begin + 2]}, *more)

    def answer(self, status: int, body: object, *headers: tuple[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(data)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    Registry.tags = {name: list(tags) for name, tags in CURRENT.items()}
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("image", "tags", "in_line", "beyond"),
    [
        ("haproxy:3.4.7", "3.4.6 3.4.7 3.4 latest lts 3.4.9-alpine", None, None),
        ("haproxy:3.4.7", "3.4.10 3.4.8 3.5.1", "3.4.10", "3.5.1"),
        ("postgres:18.6-trixie", "18.7-bookworm 18.10-trixie 19.1-trixie", "18.10-trixie", "19.1-trixie"),
        ("postgres:18.6-trixie", "19beta1-trixie 18-trixie trixie", None, None),
        ("python:3.13.15-slim-trixie", "3.14.2-slim-trixie 3.13.16-trixie", None, "3.14.2-slim-trixie"),
        ("edoburu/pgbouncer:v1.25.2-p0", "v1.25.2-p1 1.26.1 v1.9.9-p9", "v1.25.2-p1", None),
        ("edoburu/pgbouncer:v1.25.2-p0", "v1.25.2-p1 v1.26.1-p0", "v1.26.1-p0", None),
        ("prom/prometheus:v3.15.0", "v3.16.0-rc.1 v3.9.1", None, None),
    ],
)
def test_compares_versions_of_the_same_form(
    image: str, tags: str, in_line: str | None, beyond: str | None
) -> None:
    assert outdated.newest(Image.parse(image), tags.split()) == Standing(in_line, beyond)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("postgres:18.6", Image(outdated.HUB, "library/postgres", "18.6")),
        ("docker.io/library/postgres:18.6", Image(outdated.HUB, "library/postgres", "18.6")),
        ("docker.io/edoburu/pgbouncer:v1.25.2-p0", Image(outdated.HUB, "edoburu/pgbouncer", "v1.25.2-p0")),
        ("ghcr.io/astral-sh/uv:0.13.9@sha256:12", Image("ghcr.io", "astral-sh/uv", "0.13.9")),
        ("localhost:5000/x:1.2", Image("localhost:5000", "x", "1.2")),
    ],
)
def test_knows_where_an_image_comes_from(name: str, expected: Image) -> None:
    assert Image.parse(name) == expected


@pytest.mark.parametrize("name", ["postgres", "postgres:latest", "postgres:18", "localhost:5000/x"])
def test_a_name_without_a_version_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="names no version"):
        Image.parse(name)


def test_every_image_is_pinned_to_a_version_and_looked_at() -> None:
    found = {Image.parse(name).repository for name in outdated.named()}
    assert found >= {
        *("library/python", "astral-sh/uv", "library/postgres", "library/haproxy"),
        *("prom/prometheus", "grafana/grafana"),
        *(["edoburu/pgbouncer"] if (ROOT / "deploy/pgbouncer").exists() else ()),
    }


def test_nothing_is_behind(
    registry: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # A service that another test has made in this process writes httpx's lines to standard output.
    caplog.set_level(logging.WARNING, logger="httpx")
    assert outdated.main(["--registry", registry]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(map(Image.parse, outdated.named())))
    assert all(line.endswith("current") for line in lines)


def test_what_is_behind_is_said_whatever_page_of_the_registry_it_is_on(
    registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Registry.tags["library/haproxy"] += ["latest", "2.6.1", "3.4", "3.4.99", "lts"]
    assert outdated.main(["--registry", registry]) == 1
    behind = [line for line in capsys.readouterr().out.splitlines() if "behind" in line]
    assert [line.split()[0].partition(":")[0] for line in behind] == ["haproxy"]
    assert "behind: 3.4.99" in behind[0]


def test_a_registry_that_does_not_know_an_image_is_not_taken_for_one_without_news(
    registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    del Registry.tags["prom/prometheus"]
    assert outdated.main(["--registry", registry]) == 2
    said = capsys.readouterr()
    assert "prometheus" in said.err
    assert "does not say which tags it has" in said.err
    assert "haproxy" in said.out  # the others are looked at all the same


def test_no_registry_at_all_is_a_line_and_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"http://127.0.0.1:{unused_port()}"
    assert outdated.main(["--registry", nowhere]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(nowhere in line and "does not say which tags it has" in line for line in lines)
