"""PostgreSQL connection URLs: what is wrong with one, and how to show one without its secrets.

The driver parses them when it connects; here they are only judged early, so that a slip in a URL
is one readable line at the start and not a retry loop. No message ever repeats a part of the URL
that could be a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from lifeguard.settings import parameters

_WRITE_AS_HEX = "must write '@', '#', '/', '?' and '%' inside the password as %XX"
_SECRET_PARAMETERS = frozenset({"password", "sslpassword"})
_HIGHEST_PORT = 65535
_NOTHING_BETWEEN = re.compile(r"[\s,;]postgres(?:ql)?:?//", re.IGNORECASE)
_BETWEEN_URLS = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+:]*://)")


def several(dsns: str) -> list[str]:
    """The URLs in a text that has several, with spaces, line ends or commas between them.

    >>> several("postgresql://a,b/ledger, postgresql://c/ledger")
    ['postgresql://a,b/ledger', 'postgresql://c/ledger']
    """
    return _BETWEEN_URLS.split(dsns.strip(" \t\r\n,"))


def fault_between(urls: list[str]) -> str | None:
    """Say which of `several` URLs does not begin as one, so that it looks like a part of that before it."""
    for number, url in enumerate(urls, 2):
        hosts_and_name = url.partition("?")[0].rpartition("@")[2]
        if _NOTHING_BETWEEN.search(url) or re.search(r"[\s;]", hosts_and_name):
            nth = {2: "2nd", 3: "3rd"}.get(number, f"{number}th")
            return f"the {nth} must start with postgresql://; between URLs is a space or a comma"
    return None


def each_host(dsn: str) -> list[str]:
    """`dsn` for each of its hosts alone.

    >>> each_host("postgresql://app@a:1,b/ledger")
    ['postgresql://app@a:1/ledger', 'postgresql://app@b/ledger']
    """
    url = urlsplit(dsn)
    login, at, hosts = url.netloc.rpartition("@")
    if hosts:
        return [dsn.replace(f"//{url.netloc}", f"//{login}{at}{host}", 1) for host in hosts.split(",")]
    front, _, query = dsn.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    named = dict(given)
    if "," not in named.get("host", ""):
        return [dsn]
    names = named["host"].split(",")
    ports = named.get("port", "").split(",")
    found = []
    for number, host in enumerate(names):
        own = {"host": host, "port": ports[number] if len(ports) > 1 else ports[0]}
        pairs = [(name, own.get(name, value)) for name, value in given]
        found.append(f"{front}?{urlencode(pairs, safe='/:', quote_via=quote)}")
    return found


def host_of(dsn: str) -> str:
    """The host of a URL that names one, with its port if it says one.

    >>> host_of("postgresql://app:s3cret@db.internal:5432/ledger")
    'db.internal:5432'
    """
    url = urlsplit(dsn)
    named = dict(parse_qsl(url.query))
    in_query = ":".join(part for part in (named.get("host"), named.get("port")) if part)
    return unquote(url.netloc.rpartition("@")[2]) or in_query


def fault(dsn: str) -> str | None:
    """Say what must change in `dsn`, or None where the driver can use it."""
    return next(iter(faults(dsn)), None)


def faults(dsn: str) -> list[str]:
    """Everything that must change in `dsn`: the first fault of its form or, if there is none, one for each
    of its parameters."""
    try:
        dsn.encode()
        url = urlsplit(dsn)
    except UnicodeEncodeError:
        return ["must be text in UTF-8"]
    except ValueError:
        # Of several hosts only the first may be in brackets: so says Python since its fix of CVE-2025-0938.
        return ["must be a URL; write special characters of the password as %XX, and an IPv6 address first"]
    if problem := _fault_of_form(dsn, url):
        return [problem]
    try:
        given = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
    except ValueError:
        return ["must end in ?name=value&name=value"]
    found = [said for name, value in dict(given).items() if (said := parameters.fault(name, value))]
    if found and "@" in url.query:  # perhaps the rest of a password: then no name of it may be shown
        return [_WRITE_AS_HEX]
    return [*found, *_faults_of_agreement(url, dict(given))]


def _fault_of_form(dsn: str, url: SplitResult) -> str | None:
    if url.scheme not in {"postgresql", "postgres"}:
        hint = ", without a driver's name" if _DRIVER.match(dsn) else ""
        return f"must start with postgresql:// or postgres://{hint}"
    if url.fragment or url.netloc.count("@") > 1 or "@" in url.path:
        return _WRITE_AS_HEX
    if "\0" in unquote(dsn):
        return "must not contain %00"
    if re.search(r"[\s,]", url.path):
        return "must write ',' and ' ' in the database's name as %2C and %20; hosts go in front of the '/'"
    return _fault_of_hosts(_host_list(url))


_DRIVER = re.compile(r"(jdbc:|prisma\+)?postgres(ql)?(\+[a-z0-9_]+)?:", re.IGNORECASE)


def _fault_of_hosts(hosts: list[str]) -> str | None:
    for host_and_port in hosts:
        host, port = _split_port(host_and_port)
        if port and not _is_port(port):
            return f"must name ports from 1 to {_HIGHEST_PORT}, and write '/' in a password as %2F"
        if not host:
            return "must name a host before and after each ',' and before each ':'"
        if not host.startswith("/") and not _is_host_name(host):
            return "must name hosts as DNS does, or by their address"
    return None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= _HIGHEST_PORT


def _is_host_name(host: str) -> bool:
    """Whether it can be looked up at all: Python raises UnicodeError when it cannot be written for DNS."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return host.isprintable() and " " not in host


def _faults_of_agreement(url: SplitResult, given: dict[str, str]) -> Iterator[str]:
    """Yield what asyncpg would drop or trip over, though each parameter is right alone."""
    in_front = {
        "host": bool(_host_list(url)),
        "port": bool(_host_list(url)),
        "user": bool(_login(url)[0]),
        "password": bool(_login(url)[1]),
        "dbname": bool(url.path.strip("/")),
        "database": bool(url.path.strip("/")),
    }
    for name, already in in_front.items():
        if already and name in given:
            yield f"must not have {name}: it is given before the '?' too, and asyncpg takes that one"
    hosts = given["host"].split(",") if given.get("host") else []
    if fault_of_hosts := _fault_of_hosts([] if in_front["host"] else hosts):
        yield fault_of_hosts
    ports = given["port"].split(",") if given.get("port") else []
    if not in_front["port"] and not (all(map(_is_port, ports)) and len(ports) in {0, 1, len(hosts)}):
        yield f"must have as port one number from 1 to {_HIGHEST_PORT}, or one for each host"
    least, most = (given.get(f"ssl_{end}_protocol_version", "") for end in ("min", "max"))
    if least and most and least > most:
        yield "must not have ssl_min_protocol_version above ssl_max_protocol_version"


def _login(url: SplitResult) -> tuple[str, str]:
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    return user, password


def server_settings(dsn: str) -> dict[str, str]:
    """The settings of the session that the driver takes from `dsn` and sends along when it connects."""
    return {
        name: value for name, value in parse_qsl(urlsplit(dsn).query) if parameters.is_server_setting(name)
    }


def without_server_settings(dsn: str) -> str:
    """`dsn` for a server that takes no settings when one connects."""
    front, _, query = dsn.partition("?")
    kept = [part for part in query.split("&") if not server_settings(f"postgresql://?{part}")]
    return f"{front}?{'&'.join(kept)}" if any(kept) else front


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
    given = dict(parse_qsl(url.query))
    usual = "verify-full" if given.get("sslrootcert") == "system" else "prefer"
    if given.get("sslmode", usual) not in {"allow", "prefer"}:
        return False
    hosts = _host_list(url) or given.get("host", "").split(",")
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
