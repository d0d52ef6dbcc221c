"""Lock files of a service that needs less than the starter: what `make lock` would write."""

from __future__ import annotations

import hashlib
import re

_VIA_ONE = re.compile(r"^    # via (\S.*)\n", re.MULTILINE)
_VIA_MANY = re.compile(r"^    # via\n((?:    #   .*\n)+)", re.MULTILINE)


def without(lock: str, *gone: str) -> str:
    """The lock without `gone` and what only they need: packages, and groups as it names them, like
    `ledger (pyproject.toml:bench)`.

    It says of each package by whom it is needed. What nobody needs any more goes, and with it its own needs.
    """
    missing = set(gone)
    while True:
        changed = "".join(_left(package, missing) for package in _packages(lock))
        if changed == lock:
            return lock
        missing |= _names(lock) - _names(changed)
        lock = changed


def with_package(lock: str, name: str, version: str, content: bytes, by: str) -> str:
    """The lock with a package of which there is one file, needed `by` somebody."""
    lock = re.sub(r"\n# The following packages were excluded from the output:\n(?:# .*\n)+", "", lock)
    own = f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(content).hexdigest()}\n    # via {by}\n"
    return "".join(sorted([*_packages(lock), own], key=lambda package: re.split("[= ]", package)[0]))


def _packages(lock: str) -> list[str]:
    """Its lines by packages: a name, and what is indented below it."""
    return [package for package in re.split(r"^(?=\S)", lock, flags=re.MULTILINE) if package]


def _names(lock: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))


def _left(package: str, missing: set[str]) -> str:
    needed = _needed_by(package)
    if package.partition("==")[0] in missing:
        return ""
    left = [one for one in needed if one not in missing]
    if needed and not left:
        return ""
    if left == needed:
        return package
    said = (
        f"    # via {left[0]}\n"
        if len(left) == 1
        else "    # via\n" + "".join(f"    #   {one}\n" for one in left)
    )
    return _VIA_MANY.sub(said, package) if _VIA_MANY.search(package) else _VIA_ONE.sub(said, package)


def _needed_by(package: str) -> list[str]:
    if many := _VIA_MANY.search(package):
        return [line.removeprefix("    #   ") for line in many[1].splitlines()]
    return _VIA_ONE.findall(package)
