"""What the doctor says to type where a database cannot be reached, and of the TLS of one that can."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lifeguard.database.fault_advice import advice_about
from lifeguard.operations.checks import connection
from lifeguard.operations.checks.certificate import expiry
from lifeguard.testing.servers import PostgresServer, unused_port
from pydantic import SecretStr

from packages.lifeguard.tests.certificates import needs_openssl, openssl, self_signed
from packages.lifeguard.tests.database.test_tls import tls_front
from packages.lifeguard.tests.doctor.reports import report, told
from packages.lifeguard.tests.sample.settings import Settings

REFUSED = 'InvalidPasswordError: password authentication failed for user "app"'


@pytest.mark.parametrize(
    ("replace", "values", "said", "advice"),
    [
        (("/test_", "/no_test_"), {}, "unknown database", "createdb -h 127.0.0.1 -p {port} no_test_"),
        (("PASSWORD", "wrong-secret"), {}, "authentication", "correct the password in the URL"),
        (
            ("PASSWORD", "unused-secret"),
            {"database_password_command": "echo wrong-secret"},
            "authentication",
            "run DATABASE_PASSWORD_COMMAND by hand: what it prints is refused",
        ),
        (
            ("PASSWORD", "unused-secret"),
            {"database_password_command": "false"},
            "password",
            "DATABASE_PASSWORD_COMMAND by hand, as this user: it must print the password within",
        ),
        (("{port}", "1"), {}, "unreachable", "pg_isready -h 127.0.0.1 -p 1"),
        (("127.0.0.1", "db.invalid"), {}, "unknown host", "getent hosts db.invalid"),
        (("QUERY", "?sslmode=require"), {}, "tls", "ALTER SYSTEM SET ssl = on"),
    ],
)
async def test_a_database_that_is_not_reached(  # noqa: PLR0917 - a table
    postgres: PostgresServer,
    database_url: str,
    replace: tuple[str, str],
    values: dict[str, object],
    said: str,
    advice: str,
) -> None:
    template = database_url.replace(postgres.password, "PASSWORD").replace(str(postgres.port), "{port}")
    url = f"{template}QUERY".replace(*replace)
    for name, value in (("PASSWORD", postgres.password), ("{port}", str(postgres.port)), ("QUERY", "")):
        url = url.replace(name, value)
    line = (await report(url, **values))["primary server"]
    assert line.level == "fail"
    assert f": {said}: " in line.finding
    assert advice.replace("{port}", str(postgres.port)) in line.advice
    assert "secret" not in told(line)


async def test_role_that_may_not_connect(postgres: PostgresServer, database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    async with postgres.connect() as admin:
        await admin.execute("CREATE ROLE kept_out LOGIN PASSWORD 'kept-out'")
        await admin.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        url = f"postgresql://kept_out:kept-out@127.0.0.1:{postgres.port}/{name}"
        line = (await report(url))["primary server"]
        await admin.execute("DROP ROLE kept_out")
    assert line.level == "fail"
    assert f"GRANT CONNECT ON DATABASE {name} TO" in line.advice


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "correct the password in the URL"),
        ({"database_password_command": "echo hush"}, "run DATABASE_PASSWORD_COMMAND by hand"),
    ],
)
def test_advice_about_a_refused_password_names_its_source(values: dict[str, object], said: str) -> None:
    settings = Settings.model_validate({"database_url": SecretStr("postgresql://app@db/x"), **values})
    for error in (REFUSED, f"NoHostServes: db1:5432: {REFUSED}; db2:5432: ConnectionRefusedError: no"):
        assert advice_about(error, "as its class says", settings).startswith(said)
    assert advice_about("ConnectionRefusedError: no", "as its class says", settings) == "as its class says"


def test_advice_about_a_refused_password_names_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hush")
    settings = Settings.model_validate({"database_password_file": file})
    assert advice_about(REFUSED, "", settings).startswith("look into DATABASE_PASSWORD_FILE=/")


def expired(certificate: Path) -> Path:
    """A certificate of `localhost` whose time was over in 2021, and its key beside it."""
    folder = certificate.parent
    openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", "/CN=localhost", "-keyout", str(certificate.with_suffix(".key"))),
        *("-out", str(folder / "request")),
    )
    (folder / "index").touch()
    (folder / "extensions").write_text("subjectAltName = DNS:localhost\n")
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca = it\n[it]\ndefault_md = sha256\npolicy = any\n"
        f"database = {folder}/index\nnew_certs_dir = {folder}\nrand_serial = yes\n"
        "[any]\ncommonName = supplied\n"
    )
    openssl(
        *("ca", "-batch", "-selfsign", "-config", str(folder / "ca.cnf"), "-in", str(folder / "request")),
        *("-keyfile", str(certificate.with_suffix(".key")), "-out", str(certificate), "-notext"),
        *("-extfile", str(folder / "extensions")),
        *("-startdate", "20200101000000Z", "-enddate", "20210203040506Z"),
    )
    return certificate


@needs_openssl
class TestTls:
    @pytest.fixture(autouse=True)
    def _home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))

    async def test_certificate_that_has_expired(self, database_url: str, tmp_path: Path) -> None:
        certificate = expired(tmp_path / "server.crt")
        async with tls_front(database_url, certificate, direct=False) as url:
            careless = (await report(f"{url}?sslmode=require"))["primary tls"]
            careful = (await report(f"{url}?sslmode=verify-full&sslrootcert={certificate}"))["primary server"]
        assert careless.level == "warn"
        assert "not verified, valid until 2021-02-03: it has expired" in careless.finding
        assert "renew it at the server" in careless.advice
        assert careful.level == "fail"
        assert "certificate has expired" in careful.finding
        assert "openssl s_client -starttls postgres -connect localhost:" in careful.advice

    async def test_certificate_that_nobody_vouches_for(self, database_url: str, tmp_path: Path) -> None:
        certificate, other = self_signed(tmp_path / "server.crt"), self_signed(tmp_path / "other.crt")
        async with tls_front(database_url, certificate, direct=False) as url:
            line = (await report(f"{url}?sslmode=verify-full&sslrootcert={other}"))["primary server"]
        assert line.level == "fail"
        assert "sslrootcert must be the file of who signed it" in line.advice

    async def test_certificate_that_is_fine(
        self, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Python's own words for its end are those that are read from its bytes."""
        certificate = self_signed(tmp_path / "server.crt")
        until = expiry(ssl.PEM_cert_to_DER_cert(certificate.read_text()))
        context = ssl.create_default_context(cafile=str(certificate))
        (told_by_python,) = context.get_ca_certs()
        assert until.timestamp() == ssl.cert_time_to_seconds(str(told_by_python["notAfter"]))
        monkeypatch.setattr(
            connection, "RENEW_WITHIN", until - datetime.now(tz=UTC) - until.resolution * 10**9
        )
        async with tls_front(database_url, certificate, direct=False) as url:
            query = f"?sslmode=verify-full&sslrootcert={certificate}"
            fine = (await report(f"{url}{query}"))["primary tls"]
            monkeypatch.setattr(connection, "RENEW_WITHIN", until - datetime.now(tz=UTC))
            soon = (await report(f"{url}{query}"))["primary tls"]
        assert fine.level == "ok"
        assert f"TLSv1.3, certificate verified, valid until {until:%Y-%m-%d}" in fine.finding
        assert (soon.level, "days from now" in soon.finding) == ("warn", True)


@pytest.mark.parametrize("junk", [b"", b"0", b"0\x03\x02\x01\x01", b"0\x82\xff\xff", b"\x30\x84" * 9])
def test_what_is_no_certificate(junk: bytes) -> None:
    with pytest.raises(ValueError, match="no certificate in DER"):
        expiry(junk)


async def test_a_host_without_an_answer_is_said_with_its_port() -> None:
    port = unused_port()
    line = (await report(f"postgresql://app@127.0.0.1:1,127.0.0.1:{port}/x"))["primary server"]
    assert line.level == "fail"
    assert "127.0.0.1:1: ConnectionRefusedError" in line.finding
    assert f"127.0.0.1:{port}: ConnectionRefusedError" in line.finding
