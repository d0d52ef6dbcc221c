"""The files of a TLS connection: whether they can be used, and the certificates that this machine trusts."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from lifeguard.database.conninfo import ConnInfo, Parameter, home_directory
from lifeguard.settings.environment import shown, unreadable

SYSTEM = "system"
"""`sslrootcert` for the certificates that this machine trusts, as libpq has it; asyncpg reads a file."""

_NOT_ENCRYPTED = "disable"
_CHECKING = frozenset({"require", "verify-ca", "verify-full"})
_ALPN = ["postgresql"]  # asked for by PostgreSQL 17+ when TLS comes first (sslnegotiation=direct)


def faults(conninfo: ConnInfo) -> Iterator[str]:
    """Yield a line for each file that asyncpg could not use, and for what does not go together."""
    mode = _mode(conninfo)
    if conninfo.value("sslnegotiation") == "direct" and mode not in _CHECKING:
        yield f"{conninfo.variable}: must have sslmode=require or stricter with sslnegotiation=direct"
    if mode == _NOT_ENCRYPTED or not conninfo.uses_tcp:
        return
    if reason := _closed_home():
        yield f"HOME={shown(home_directory())}: must be a directory that this process may enter ({reason})"
        return
    if mode not in _CHECKING and (named := conninfo.get("sslrootcert") or conninfo.get("sslcrl")):
        yield named.line(f"must have sslmode=verify-full; with sslmode={mode} no certificate is checked")
    if mode in _CHECKING:
        yield from _faults_of_roots(conninfo, mode)
        yield from _faults_of_certificates(_file(conninfo, "sslcrl", "root.crl"))
    yield from _faults_of_own_certificate(conninfo)


def context(conninfo: ConnInfo) -> ssl.SSLContext | None:
    """The context that replaces the URL's TLS parameters, where those ask for SYSTEM."""
    if conninfo.value("sslrootcert") != SYSTEM or not conninfo.uses_tcp:
        return None
    made = ssl.create_default_context()  # heeds SSL_CERT_FILE and SSL_CERT_DIR
    made.minimum_version = _version(conninfo.value("ssl_min_protocol_version", "TLSv1.2"))
    if most := conninfo.value("ssl_max_protocol_version"):
        made.maximum_version = _version(most)
    revoked = _file(conninfo, "sslcrl", "root.crl")
    if revoked is not None and not unreadable(Path(revoked.value)):
        made.load_verify_locations(cafile=revoked.value)
        made.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    _load_own(made, conninfo)
    made.set_alpn_protocols(_ALPN)
    return made


def _mode(conninfo: ConnInfo) -> str:
    return conninfo.value("sslmode", "verify-full" if conninfo.value("sslrootcert") == SYSTEM else "prefer")


def _version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.replace(".", "_")]


def _file(conninfo: ConnInfo, name: str, usual: str) -> Parameter | None:
    """The file that is named, or else that of HOME if there is one."""
    if named := conninfo.get(name):
        return named
    home = home_directory()
    file = home / ".postgresql" / usual if home else None
    return Parameter(str(file), name) if file and os.path.exists(file) else None  # noqa: PTH110 - raises nothing


def _closed_home() -> str | None:
    """Why HOME cannot be read, where asyncpg looks for optional files; None if it can."""
    home = home_directory()
    try:
        if home is not None:
            (home / ".postgresql" / "postgresql.crt").stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _faults_of_roots(conninfo: ConnInfo, mode: str) -> Iterator[str]:
    named = conninfo.get("sslrootcert")
    if named and named.value == SYSTEM:
        if mode != "verify-full":
            yield f"{conninfo.variable}: must have sslmode=verify-full with sslrootcert=system, as libpq asks"
        return
    file = _file(conninfo, "sslrootcert", "root.crt")
    if file is None and mode != "require":
        yield (
            f"{conninfo.variable}: must have sslrootcert with sslmode={mode}: a file, or system for what this"
            " machine trusts; there is no ~/.postgresql/root.crt"
        )
    yield from _faults_of_certificates(file)


def _faults_of_certificates(file: Parameter | None) -> Iterator[str]:
    if file is None:
        return
    if reason := unreadable(Path(file.value)):
        yield file.line(_cannot(reason))
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file.value)
    except (ssl.SSLError, ValueError):
        yield file.line("must be a file of certificates in PEM form")


def _faults_of_own_certificate(conninfo: ConnInfo) -> Iterator[str]:
    certificate, key = (
        _file(conninfo, "sslcert", "postgresql.crt"),
        _file(conninfo, "sslkey", "postgresql.key"),
    )
    if certificate is None:
        if key is not None and conninfo.get("sslkey"):
            yield key.line("must have an sslcert beside it")
        return
    unusable = [
        file.line(_cannot(reason))
        for file in (certificate, key)
        if file and (reason := unreadable(Path(file.value)))
    ]
    yield from unusable
    if unusable:
        return
    try:
        _load_own(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), conninfo)
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH" and key:
            yield key.line("must be the key of sslcert")
        elif _is_locked(locked := key or certificate):
            yield locked.line("must be opened by sslpassword")
        else:
            beside = f" and sslkey={shown(key.value)}" if key else " (with its key, or an sslkey beside it)"
            yield certificate.line(f"must be in PEM form{beside}")


def _is_locked(file: Parameter) -> bool:
    return b"ENCRYPTED" in Path(file.value).read_bytes()


def _load_own(made: ssl.SSLContext, conninfo: ConnInfo) -> None:
    certificate, key = (
        _file(conninfo, "sslcert", "postgresql.crt"),
        _file(conninfo, "sslkey", "postgresql.key"),
    )
    if certificate is not None:
        made.load_cert_chain(
            certificate.value, key.value if key else None, password=lambda: conninfo.value("sslpassword")
        )


def _cannot(reason: str) -> str:
    return f"cannot be read ({reason})"
