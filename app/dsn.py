"""PostgreSQL connection URLs: what is wrong with one, and how to show one without its secrets.

The driver parses them when it connects; here they are only judged early, so that a slip in a URL
is one readable line at the start and not a retry loop. No message ever repeats a part of the URL
that could be a secret.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRS = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")

_CHOICES = {"sslmode": SSL_MODES, "target_session_attrs": SESSION_ATTRS}
_SECRET_PARAMETERS = frozenset({"password", "sslpassword"})
_HIGHEST_PORT = 65535


def fault(dsn: str) -> str | None:
    """Say what must change in `dsn`, or None where the driver can use it."""
    try:
        url = urlsplit(dsn)
    except ValueError:
        # Of several hosts only the first may be in brackets: so says Python since its fix of CVE-2025-0938.
        return "must be a URL; write special characters of the password as %XX, and an IPv6 address first"
    if url.scheme not in {"postgresql", "postgres"}:
        return "must start with postgresql:// or postgres://"
    if url.fragment or url.netloc.count("@") > 1 or "@" in url.path:
        return "must write '@', '#', '/', '?' and '%' inside the password as %XX"
    return _fault_of_hosts(url) or _fault_of_parameters(url.query)


def _fault_of_hosts(url: SplitResult) -> str | None:
    for host_and_port in _host_list(url):
        _, port = _split_port(host_and_port)
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= _HIGHEST_PORT):
            return f"must name ports from 1 to {_HIGHEST_PORT}, and write '/' in a password as %2F"
    return None


def _fault_of_parameters(query: str) -> str | None:
    try:
        parameters = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        return "must end in ?name=value&name=value"
    for name, allowed in _CHOICES.items():
        if name in parameters and parameters[name] not in allowed:
            return f"must have {name} one of: {', '.join(allowed)}"
    return None


def without_secrets(dsn: str) -> str:
    """Give `dsn` for people: user, hosts, database and parameters, but no password.

    >>> without_secrets("postgresql://app:s3cret@db.internal:5432/ledger?sslmode=require")
    'postgresql://app@db.internal:5432/ledger?sslmode=require'
    """
    if fault(dsn):
        return "(not a PostgreSQL URL)"  # who knows which part of it is the password
    url = urlsplit(dsn)
    login, at, hosts = url.netloc.rpartition("@")
    shown = [(name, value) for name, value in parse_qsl(url.query) if not _is_secret(name)]
    query = urlencode(shown, safe="/,:", quote_via=quote)
    netloc = f"{login.partition(':')[0]}{at}{hosts}"
    # Written by hand: urlunsplit drops the slashes of `postgresql:///database`.
    return f"{url.scheme}://{netloc}{url.path}{'?' if query else ''}{query}"


def secrets(dsn: str) -> frozenset[str]:
    """Give every password in `dsn`, as written in the URL and as the server sees it."""
    if fault(dsn):
        return frozenset({dsn})
    url = urlsplit(dsn)
    password = url.netloc.rpartition("@")[0].partition(":")[2]
    found = {value for name, value in parse_qsl(url.query) if _is_secret(name)}
    found |= {quote(value, safe="") for value in found} | {password, unquote(password)}
    return frozenset(found - {""})


def may_fall_back_to_plaintext(dsn: str) -> bool:
    """Tell whether a host beyond this machine could be spoken to unencrypted by mere default.

    libpq's own default, `prefer`, is silent about it; `disable` is somebody's decision.
    """
    url = urlsplit(dsn)
    parameters = dict(parse_qsl(url.query))
    if parameters.get("sslmode", "prefer") not in {"allow", "prefer"}:
        return False
    hosts = _host_list(url) or parameters.get("host", "").split(",")
    return not all(_is_local(_split_port(host)[0]) for host in hosts)


def _is_secret(parameter: str) -> bool:
    return parameter.lower() in _SECRET_PARAMETERS


def _host_list(url: SplitResult) -> list[str]:
    hosts = url.netloc.rpartition("@")[2]
    return hosts.split(",") if hosts else []


def _split_port(host_and_port: str) -> tuple[str, str]:
    bracketed = re.fullmatch(r"\[(?P<host>[^\]]*)\](?::(?P<port>.*))?", host_and_port)
    if bracketed:
        return bracketed["host"], bracketed["port"] or ""
    host, _, port = host_and_port.partition(":")
    return unquote(host), port


def _is_local(host: str) -> bool:
    if host in {"", "localhost"} or host.startswith(("/", "@")):  # none, or a unix socket
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
