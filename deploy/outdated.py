"""`python -m deploy.outdated` (`make outdated`): which images have newer versions than those named here.

It asks the registry of each image for its tags, and compares those of the same form: what is newer than
`18.6-trixie` is `18.7-trixie`, not `18.7-alpine`. A new line of something that one changes on purpose (HELD)
is told, and does not count as being behind.

Exit code 0: nothing is behind. 1: something is. 2: a registry gave no answer, so that nobody knows.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

ROOT = Path(__file__).parents[1]
HUB = "registry-1.docker.io"
HELD = {"library/postgres": 1, "library/python": 2, "library/haproxy": 2}
"""How many numbers of a version make a line that one does not leave in passing: PostgreSQL 18, Python 3.13,
HAProxy 3.4 (which is maintained for five years, as the even ones are)."""
PATIENCE = 10.0  # seconds for each answer
_TAG = re.compile(r"v?\d+\.\d+[\w.-]*")
_BEARER = re.compile(r'(realm|service|scope)="([^"]*)"')


class Unreachable(Exception):
    """A registry does not say which tags it has; the message is one line."""


@dataclass(frozen=True, order=True)
class Image:
    """What is named somewhere: `registry`/`repository`:`tag`, and a digest behind it that may be there."""

    registry: str
    repository: str
    tag: str

    @classmethod
    def parse(cls, name: str) -> Image:
        """Raises ValueError where no version is named."""
        name = name.partition("@")[0]
        path, colon, tag = name.rpartition(":")
        if not colon or not _TAG.fullmatch(tag):
            raise ValueError(f"{name}: names no version")
        first, slash, rest = path.partition("/")
        if slash and ("." in first or ":" in first):
            registry, repository = first, rest
        else:
            registry, repository = HUB, path
        if registry == "docker.io":
            registry = HUB
        if registry == HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(registry, repository, tag)

    def __str__(self) -> str:
        return f"{self.repository.removeprefix('library/')}:{self.tag}"


@dataclass(frozen=True)
class Standing:
    """The newest tags there are, if they are newer: in the line of the image, and in lines after it."""

    in_line: str | None
    beyond: str | None


def named(root: Path = ROOT) -> list[str]:
    """Every image that compose, the Dockerfile and the manifests name, ours left out."""
    found: set[str] = set()
    compose = yaml.safe_load((root / "docker-compose.yml").read_text(encoding="utf-8"))
    found |= {service["image"] for service in compose["services"].values()}
    for line in (root / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if base := re.match(r"FROM (\S+)", line):
            found.add(base[1])
    for path in (root / "deploy/kubernetes").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^\s*-? ?(?:image|imageName): (\S+)$", text, re.MULTILINE))
    own = re.compile(r"lifeguard(:.*)?|\$\{.*|tagged-.*|uv|build")
    return sorted(name for name in found if not own.fullmatch(name))


def newest(image: Image, tags: Iterable[str]) -> Standing:
    """Compare an image with the tags of its repository."""
    form, own = _parts(image.tag)
    line = own[: HELD.get(image.repository, 0)]
    newer = [
        (numbers, tag) for tag in tags for other, numbers in [_parts(tag)] if other == form and numbers > own
    ]
    in_line = max((one for one in newer if one[0][: len(line)] == line), default=None)
    beyond = max((one for one in newer if one[0][: len(line)] != line), default=None)
    return Standing(in_line and in_line[1], beyond and beyond[1])


def _parts(tag: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What is around the numbers of a tag, and the numbers."""
    pieces = re.split(r"(\d+)", tag)
    return tuple(pieces[::2]), tuple(map(int, pieces[1::2]))


def tags_of(image: Image, client: httpx.Client, registry: str | None = None) -> list[str]:
    """Ask the image's registry, or the one at the URL `registry`. Raises Unreachable."""
    base = (registry or f"https://{image.registry}").rstrip("/")
    url: httpx.URL | None = httpx.URL(f"{base}/v2/{image.repository}/tags/list?n=1000")
    found: list[str] = []
    try:
        while url is not None:
            answer = client.get(url)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                client.headers["Authorization"] = f"Bearer {_token(answer, client)}"
                answer = client.get(url)
            found += answer.raise_for_status().json()["tags"] or []
            following = answer.links.get("next", {}).get("url")
            url = url.join(following) if following else None
    except (httpx.HTTPError, httpx.InvalidURL, LookupError, TypeError, ValueError) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise Unreachable(f"{image}: {base} does not say which tags it has: {why}") from error
    finally:
        client.headers.pop("Authorization", None)
    return found


def _token(refusal: httpx.Response, client: httpx.Client) -> str:
    """What a registry wants to see even of those whom it knows nothing of."""
    asked = dict(_BEARER.findall(refusal.headers.get("www-authenticate", "")))
    answer = client.get(asked.pop("realm"), params=asked).raise_for_status().json()
    token: str = answer.get("token") or answer["access_token"]
    return token


def report(images: Sequence[Image], registry: str | None = None) -> Iterator[tuple[str, bool]]:
    """Yield a line for each, and whether it is behind. Raises Unreachable."""
    with httpx.Client(timeout=PATIENCE, follow_redirects=True) as client:
        for image in images:
            standing = newest(image, tags_of(image, client, registry))
            said = f"behind: {standing.in_line}" if standing.in_line else "current"
            if standing.beyond:
                said += f"  (another line: {standing.beyond})"
            yield f"{image!s:<40} {said}", standing.in_line is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Give the exit code."""
    parser = argparse.ArgumentParser(description="Which images have newer versions than those named here.")
    parser.add_argument("--registry", help="URL of a registry to ask instead of each image's own: a mirror")
    registry: str | None = parser.parse_args(arguments).registry
    behind = False
    unknown = False
    for image in sorted(set(map(Image.parse, named()))):
        try:
            for line, is_behind in report([image], registry):
                print(line)
                behind |= is_behind
        except Unreachable as error:
            print(error, file=sys.stderr)
            unknown = True
    return 2 if unknown else int(behind)


if __name__ == "__main__":
    sys.exit(main())
