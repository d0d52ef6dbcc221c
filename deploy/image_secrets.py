"""Is anything in an image that should not be? Looks through every layer, deleted files too, and its history.

    python -m deploy.image_secrets lifeguard:dev .env /path/to/a/password

The files after the image hold secrets; their texts must not be found. Exit code 1 if something is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

OUT_OF_PLACE = re.compile(
    r"(^|/)(\.env(\..*)?|\.git|\.netrc|\.pgpass|\.npmrc|\.pypirc|id_(rsa|ecdsa|ed25519)|.*_password)$"
    r"|^srv/(tests|bench|deploy|\.ci|\.data|secrets)(/|$)"
    r"|^(root|home/\w+)/\.(ssh|docker|aws|kube|cache)/"
)
SECRET_VARIABLE = re.compile(r"\w*(PASSWORD|TOKEN|SECRET|CREDENTIAL|DATABASE_\w*URL)\w*(?<!_FILE)=.+")
SHORTEST = 8  # characters; less would be found by chance


def findings(image: str, secrets: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the image, a line each."""
    with tempfile.TemporaryDirectory() as directory:
        saved = Path(directory, "image.tar")
        subprocess.run(["docker", "save", "--output", saved, image], check=True)  # noqa: S607 - wherever it is
        with tarfile.open(saved) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    yield from _in_part(member.name, content, secrets)


def _in_part(name: str, content: IO[bytes], secrets: Sequence[str]) -> Iterator[str]:
    """Look at a layer, or at what says how the image is made."""
    try:
        with tarfile.open(fileobj=content) as layer:
            yield from _in_layer(layer, secrets)
    except tarfile.ReadError:
        content.seek(0)
        text = content.read()
        yield from (f"{name}: has a secret" for secret in secrets if secret.encode() in text)
        yield from (f"{name}: {variable}" for variable in _variables(text) if SECRET_VARIABLE.match(variable))


def _in_layer(layer: tarfile.TarFile, secrets: Sequence[str]) -> Iterator[str]:
    for member in layer:
        path = member.name.removeprefix("./")
        if OUT_OF_PLACE.search(path):
            yield f"{path}: does not belong here"
        content = layer.extractfile(member) if member.isreg() else None
        if content is not None:
            text = content.read()
            yield from (f"{path}: has a secret" for secret in secrets if secret.encode() in text)


def _variables(text: bytes) -> list[str]:
    try:
        described = json.loads(text)
    except ValueError:
        return []
    config = described.get("config") if isinstance(described, dict) else None
    return config.get("Env") or [] if isinstance(config, dict) and "Env" in config else []


def _lines_of(files: Sequence[str]) -> list[str]:
    """Give the secrets: each line of the files, of `NAME=value` the value."""
    lines = [line for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
    values = [
        re.sub(r"^[A-Z][A-Z0-9_]*=", "", line).strip("\"' ") for line in lines if not line.startswith("#")
    ]
    return [value for value in values if len(value) >= SHORTEST]


def main(image: str, *files: str) -> int:
    found = list(findings(image, _lines_of(files)))
    for line in found:
        print(line)
    print(f"{image}: {len(found) or 'nothing'} out of place")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
