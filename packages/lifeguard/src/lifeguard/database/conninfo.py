"""The parameters of a connection, from where asyncpg takes them: the URL, its service file, PG* variables,
files in HOME. What asyncpg would drop in silence, or answer with a traceback, is a readable fault here.
Faults contain no secret.

Read for asyncpg 0.32 (`connect_utils`).
"""

from __future__ import annotations

import configparser
import getpass
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from lifeguard.settings import SettingsError, parameters
from lifeguard.settings.environment import note_secret, shown, unreadable

_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "passfile": "PGPASSFILE",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "gsslib": "PGGSSLIB",
}
_PASSWORD_FIELDS = 5
_OTHERS_MAY = 0o077
_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value, and where it comes from, for a line about it."""

    value: str
    place: str

    def line(self, problem: str) -> str:
        """A fault of this value, which must be no secret."""
        return f"{self.place}={shown(self.value)}: {problem}"


class ConnInfo:
    """The parameters of one URL, wherever they come from. Raises SettingsError for its service file."""

    def __init__(self, url: str, variable: str) -> None:
        self.variable = variable
        parts = urlsplit(url)
        self._found = dict(_from_environment())
        written = dict(parse_qsl(parts.query))
        if service := written.pop("service", ""):
            self._found |= _from_service(service, variable)
        self._found |= {name: Parameter(value, f"{variable}: {name}") for name, value in written.items()}
        login, _, hosts = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        for name, value in (("host", hosts), ("user", user), ("password", password)):
            if value:
                self._found[name] = Parameter(value, variable)
        self._names_ports = bool(hosts) or bool(written.get("port"))
        note_secret(unquote(self.value("password")))

    def get(self, name: str) -> Parameter | None:
        return self._found.get(name)

    def value(self, name: str, default: str = "") -> str:
        found = self._found.get(name)
        return found.value if found else default

    @property
    def user(self) -> str:
        """That of the process where none is named; empty if it has no name."""
        try:
            return unquote(self.value("user")) or getpass.getuser()
        except (KeyError, OSError, ImportError):
            return ""

    @property
    def uses_tcp(self) -> bool:
        hosts = self.value("host")
        return not hosts or any(not host.startswith("/") for host in hosts.split(","))

    def faults(self, *, password_from_elsewhere: bool) -> Iterator[str]:
        """Yield what no look at the URL alone could find, except about TLS."""
        yield from self._faults_of_choices()
        if "user" not in self._found:
            try:
                getpass.getuser()
            except (KeyError, OSError, ImportError):
                yield f"{self.variable}: must name the user; that of this process has no name"
        if not password_from_elsewhere and "password" not in self._found:
            yield from self._faults_of_password_file()

    def _faults_of_choices(self) -> Iterator[str]:
        for name, found in self._found.items():
            if name in parameters.CHOICES and found.value not in parameters.CHOICES[name]:
                yield found.line(f"must be one of: {', '.join(parameters.CHOICES[name])}")
        ports = self._found.get("port")
        if ports and not self._names_ports and not all(map(_is_port, ports.value.split(","))):
            yield ports.line(f"must be a whole number from 1 to {_HIGHEST_PORT}, or one for each host")

    def _faults_of_password_file(self) -> Iterator[str]:
        if named := self._found.get("passfile"):
            file = Path(named.value)
            if reason := unreadable(file):
                yield named.line(f"cannot be read ({reason})")
                return
            place = f"{named.place}={shown(file)}"
        else:
            if (home := home_directory()) is None or unreadable(file := home / ".pgpass"):
                return
            place = shown(file)
        if file.stat().st_mode & _OTHERS_MAY:
            yield f"{place}: must be readable by nobody else (chmod 600), or asyncpg passes it over"
        elif line := _first_malformed(file):
            yield f"{place}: line {line} must be host:port:database:user:password, in UTF-8"
        else:
            for password in _passwords_in(file):
                note_secret(password)


def home_directory() -> Path | None:
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def _from_environment() -> Iterator[tuple[str, Parameter]]:
    for name, variable in _VARIABLES.items():
        if value := os.environ.get(variable):
            yield name, Parameter(value, variable)


def _from_service(service: str, variable: str) -> Mapping[str, Parameter]:
    place = f"{variable}: service={shown(service)}"
    if named := os.environ.get("PGSERVICEFILE"):
        file = Path(named)
    elif home := home_directory():
        file = home / ".pg_service.conf"
    else:
        raise SettingsError(f"{place}: must have its file named by PGSERVICEFILE, since there is no HOME")
    if reason := unreadable(file):
        raise SettingsError(f"{place}: {shown(file)} cannot be read ({reason}); PGSERVICEFILE names another")
    parser = configparser.ConfigParser()
    try:
        parser.read(file)
        values = dict(parser[service]) if service in parser.sections() else None
    except configparser.InterpolationError as error:  # its words repeat the line, which may be a password
        raise SettingsError(f"{place}: {shown(file)} must have every % written twice") from error
    except (configparser.Error, ValueError) as error:
        raise SettingsError(
            f"{place}: {shown(file)} must have lines [service] and name=value, in UTF-8"
        ) from error
    if values is None:
        raise SettingsError(f"{place}: must be a section of {shown(file)}")
    for name, value in values.items():
        if name in parameters.SERVER_SETTINGS and name != "application_name":
            raise SettingsError(f"{place}: must not have {name}; asyncpg takes settings only from the URL")
        # A choice is judged with its value, once it is known which place counts.
        if name not in parameters.CHOICES and (problem := parameters.fault(name, value)):
            raise SettingsError(f"{place}: {problem}")
    return {name: Parameter(value, f"{place} {name}") for name, value in values.items()}


def _first_malformed(file: Path) -> int | None:
    """The number of the first line that asyncpg stumbles over."""
    try:
        lines = file.read_text().splitlines()
    except ValueError:
        return 1
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith("#") and len(_fields(line)) != _PASSWORD_FIELDS:
            return number
    return None


def _passwords_in(file: Path) -> Iterator[str]:
    for line in map(str.strip, file.read_text().splitlines()):
        if line and not line.startswith("#"):
            yield re.sub(r"\\(.)", r"\1", _fields(line)[-1].replace("\n", r"\\"))


def _fields(line: str) -> list[str]:
    return re.split(r"(?<!\\):", line.replace(r"\\", "\n"), maxsplit=_PASSWORD_FIELDS - 1)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= _HIGHEST_PORT
