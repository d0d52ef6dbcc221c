"""Whatever is wrong about how a database is reached ends every start in readable lines, exit code 2."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from lifeguard.settings import parameters
from typer.testing import CliRunner

from packages.lifeguard.tests.certificates import needs_openssl, openssl, self_signed
from packages.lifeguard.tests.sample import main
from packages.lifeguard.tests.sample.commands import cli
from packages.lifeguard.tests.sample.settings import Settings

SECRET = "canary-hush-hush"
URL = f"postgresql://app:{SECRET}@localhost:1/x"
LONG = "/" + "x" * 300  # stands for what this process may not look into, as root may look into everything
VARIABLES = (
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICEFILE",
    "PGSSLMODE",
    "PGSSLROOTCERT",
)

FILES = {
    "junk": f"{SECRET}\n",
    "bytes": "\udcff\udcfe",
    "percent": f"[a]\npassword={SECRET}%x\n",
    "no-section": f"password={SECRET}\n",
    "services": "[a]\nhost=localhost\n[foreign]\npgbouncer=true\n[limited]\nwork_mem=5MB\n",
    "short": f"localhost:1:{SECRET}\n",
    "open": f"localhost:1:x:app:{SECRET}\n",
}


def url(query: str) -> dict[str, str]:
    return {"DATABASE_URL": f"{URL}?{query}"}


def service(name: str, file: str) -> dict[str, str]:
    return {"PGSERVICEFILE": file, **url(f"service={name}")}


def passwordless(**variables: str) -> dict[str, str]:
    return {"DATABASE_URL": "postgresql://app@localhost:1/x", **variables}


CASES: list[tuple[dict[str, str], str]] = [
    # The URL's form.
    ({"DATABASE_URL": "postgresql+asyncpg://a/x"}, "must start with postgresql:// or postgres://, without a"),
    ({"DATABASE_URL": "jdbc:postgresql://a/x"}, "must start with postgresql:// or postgres://, without a"),
    ({"DATABASE_URL": "postgresql://a,,b/x"}, "must name a host before and after"),
    ({"DATABASE_URL": "postgresql://:5432/x"}, "must name a host before and after"),
    ({"DATABASE_URL": "postgresql://a..b/x"}, "must name hosts as DNS does"),
    ({"DATABASE_URL": "postgresql://a/x%00"}, "must not contain %00"),
    ({"DATABASE_URL": "postgresql://a/\udcff"}, "must be text in UTF-8"),
    ({"DATABASE_URL": "postgresql:///x?host=a,b&port=1,2,3"}, "must have as port one number"),
    ({"DATABASE_URL": "postgresql:///x?host=a&port=none"}, "must have as port one number"),
    ({"DATABASE_URL": f"postgresql://app:1?{SECRET}=hush@db/x"}, "inside the password as %XX"),
    (url("host=other"), "must not have host: it is given before the '?' too"),
    (url(f"password={SECRET}"), "must not have password: it is given before the '?' too"),
    # What other drivers call a parameter, and what asyncpg has not.
    (url("schema=sales"), "must not have schema: write search_path"),
    (url("pgbouncer=true"), "must not have pgbouncer: set POOL_PGBOUNCER=on"),
    (url("connection_limit=5"), "must not have connection_limit: set POOL_MAX_SIZE"),
    (url("pool_timeout=5"), "must not have pool_timeout: set POOL_ACQUIRE_TIMEOUT"),
    (url("sslmode=no-verify"), "instead of no-verify write require"),
    (url("sslaccept=strict"), "must not have sslaccept: write sslmode=verify-full"),
    (url("statement_cache_size=0"), "must not have statement_cache_size: leave it out"),
    (url("connect_timeout=3"), "must not have connect_timeout: set POOL_CONNECT_TIMEOUT"),
    (url("keepalives_idle=3"), "must not have keepalives_idle: set POOL_KEEPALIVE"),
    (url("statement_timeout=3"), "must not have statement_timeout: set STATEMENT_TIMEOUT"),
    (url("channel_binding=require"), "must not have channel_binding: leave it out; asyncpg binds no channel"),
    (url("gssencmode=disable"), "must not have gssencmode: leave it out"),
    (url("sslMode=require"), "must not have sslMode: is sslmode meant?"),
    (url("serch_path=a"), "must not have serch_path: is search_path meant?"),
    (url("foo=1"), "must not have foo: asyncpg has no such parameter. Write another setting"),
    (url("%3Cb%3E=1"), "must have parameter names of letters"),
    (url("sslnegotiation=early"), "must have sslnegotiation one of: postgres, direct"),
    (url("sslnegotiation=direct"), "must have sslmode=require or stricter"),
    (url("gsslib=mit"), "must have gsslib one of: gssapi, sspi"),
    (url("ssl_min_protocol_version=SSLv3"), "must have ssl_min_protocol_version one of: TLSv1, "),
    (
        url("ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2"),
        "must not have ssl_min_protocol",
    ),
    ({**url("options=-c%20a.b%3D1"), "POOL_PGBOUNCER": "on"}, "must not have options with POOL_PGBOUNCER=on"),
    # Files for TLS.
    (url("sslmode=verify-full"), "must have sslrootcert with sslmode=verify-full"),
    (url("sslrootcert=none"), "sslrootcert=none: must have sslmode=verify-full; with sslmode=prefer no"),
    (url("sslmode=allow&sslrootcert=none"), "must have sslmode=verify-full; with sslmode=allow no"),
    (url("sslcrl=none"), "sslcrl=none: must have sslmode=verify-full; with sslmode=prefer no"),
    ({"DATABASE_URL": URL, "PGSSLROOTCERT": "none"}, "PGSSLROOTCERT=none: must have sslmode=verify-full"),
    (url("sslmode=require&sslrootcert=none"), "sslrootcert=none: cannot be read (No such file"),
    (url("sslmode=require&sslrootcert=."), "sslrootcert=.: cannot be read (not a file)"),
    (url("sslmode=verify-ca&sslrootcert=junk"), "sslrootcert=junk: must be a file of certificates"),
    (url("sslmode=require&sslrootcert=system"), "must have sslmode=verify-full with sslrootcert=system"),
    (url("sslmode=require&sslcrl=junk"), "sslcrl=junk: must be a file of certificates"),
    (url("sslcert=none"), "sslcert=none: cannot be read"),
    (url("sslcert=junk"), "sslcert=junk: must be in PEM form"),
    (url("sslcert=junk&sslkey=none"), "sslkey=none: cannot be read"),
    (url("sslkey=junk"), "sslkey=junk: must have an sslcert beside it"),
    ({**url("sslmode=prefer"), "HOME": LONG}, "must be a directory that this process may enter"),
    ({**url("sslmode=prefer"), "PGSSLCERT": "a\x1bb"}, r"PGSSLCERT='a\x1bb': cannot be read"),
    # Service and password files, and libpq's variables.
    (service("a", "none"), "service=a: none cannot be read (No such file"),
    (service("b", "services"), "service=b: must be a section of services"),
    (service("a", "percent"), "service=a: percent must have every % written twice"),
    (service("a", "no-section"), "service=a: no-section must have lines [service]"),
    (service("a", "bytes"), "service=a: bytes must have lines [service]"),
    (service("foreign", "services"), "service=foreign: must not have pgbouncer"),
    (service("limited", "services"), "service=limited: must not have work_mem"),
    (passwordless(PGPASSFILE="none"), "PGPASSFILE=none: cannot be read (No such file"),
    (passwordless(PGPASSFILE="."), "PGPASSFILE=.: cannot be read (not a file)"),
    (passwordless(PGPASSFILE="short"), "PGPASSFILE=short: line 1 must be host:port:database:user:password"),
    (passwordless(PGPASSFILE="bytes"), "PGPASSFILE=bytes: line 1 must be"),
    (passwordless(PGPASSFILE="open"), "PGPASSFILE=open: must be readable by nobody else"),
    (passwordless(DATABASE_PASSWORD_FILE="bytes"), "DATABASE_PASSWORD_FILE=bytes: must be a file of text"),
    ({"DATABASE_URL": "postgresql:///x", "PGPORT": "many"}, "PGPORT=many: must be a whole number"),
    ({"DATABASE_URL": URL, "PGSSLMODE": "on"}, "PGSSLMODE=on: must be one of: disable"),
]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the service or of libpq, and the files of the cases in an empty HOME."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PORT", "0")
    for name in (*VARIABLES, *(field.upper() for field in Settings.model_fields if field != "port")):
        monkeypatch.delenv(name, raising=False)
    for file, text in FILES.items():
        Path(file).write_text(text, errors="surrogateescape")
        Path(file).chmod(0o644 if file == "open" else 0o600)


def lines_of(variables: Mapping[str, str], command: str) -> list[str]:
    ended = CliRunner(env=variables).invoke(cli, [command])
    assert (ended.exit_code, ended.stdout) == (2, ""), ended.output
    return ended.stderr.splitlines()


@pytest.mark.parametrize(("variables", "said"), CASES, ids=[said[:60] for _, said in CASES])
def test_every_start_ends_in_one_line(
    variables: dict[str, str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = lines_of(variables, "serve")
    assert said in line
    assert line.isprintable()
    assert SECRET not in line
    for command in ("migrate", "doctor", "sizing"):
        assert lines_of(variables, command) == [line]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:  # what `uvicorn` and `fastapi run` ask for
        _ = main.app
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [line]


def test_each_fault_of_both_databases_has_its_line() -> None:
    both = {
        "DATABASE_URL": f"{URL}?schema=a&sslmode=no-verify&pgbouncer=true",
        "DATABASE_REPLICA_URL": f"{URL}?tls=on",
    }
    said = [line.split(":")[0] for line in lines_of(both, "serve")]
    assert said == ["DATABASE_URL"] * 3 + ["DATABASE_REPLICA_URL"]
    files = {"DATABASE_URL": f"{URL}?sslcert=none&sslkey=none", "DATABASE_REPLICA_URL": f"{URL}?sslkey=junk"}
    assert len(lines_of(files, "serve")) == 3


@needs_openssl
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslcert=one.crt&sslkey=two.key", "sslkey=two.key: must be the key of sslcert"),
        ("sslcert=one.crt&sslkey=locked.key", "sslkey=locked.key: must be opened by sslpassword"),
        ("sslcert=one.crt&sslkey=junk", "sslcert=one.crt: must be in PEM form and sslkey=junk"),
        ("sslcert=one.crt&sslkey=locked.key&sslpassword=open-sesame", None),
        ("sslcert=one.crt&sslkey=one.key&sslmode=verify-full&sslrootcert=system", None),
        ("sslmode=verify-full&sslrootcert=one.crt&sslnegotiation=direct", None),
    ],
)
def test_a_key_fits_its_certificate_and_can_be_opened(query: str, said: str | None) -> None:
    for name in ("one", "two"):
        self_signed(Path(f"{name}.crt"))
    openssl("pkcs8", "-topk8", "-in", "one.key", "-out", "locked.key", "-passout", "pass:open-sesame")
    ended = CliRunner(env=url(query)).invoke(cli, ["doctor"])
    if said:
        assert (ended.exit_code, said in ended.stderr) == (2, True), ended.stderr
    else:
        assert (ended.exit_code, "Refused" in ended.stdout) == (1, True), ended.output
    assert "open-sesame" not in ended.output


@pytest.mark.parametrize(
    "name", ["application_name", "search_path", "TimeZone", "options", "app.tenant", "sslcrl", "krbsrvname"]
)
def test_what_asyncpg_or_the_server_knows_is_taken(name: str) -> None:
    assert parameters.fault(name, "x") is None
