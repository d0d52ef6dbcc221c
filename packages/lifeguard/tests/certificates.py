"""Certificates of a test's own, made by openssl where there is one."""

import shutil
import subprocess
from pathlib import Path

import pytest

_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="makes certificates with openssl")


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)  # noqa: S607 - the path's


def self_signed(certificate: Path, host: str = "localhost") -> Path:
    """Write a certificate of `host`, signed by itself, and its key beside it (`.key`)."""
    named = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    files = ["-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)]
    openssl("req", "-x509", *_KEY.split(), *named, *files)
    return certificate
