"""Settings: where they come from, what is refused, and that no secret is ever repeated."""

import os
import re
import string
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lifeguard.settings import SettingsError, env_example, variables
from pydantic import BaseModel, Field, SecretStr, ValidationError

from packages.lifeguard.tests.sample.settings import Settings

SECRET = "canary-hush-hush"
FIELDS = sorted(set(Settings.model_fields) - {"otel"})

# The table of the contract: a change here is a change for everybody who deploys.
DEFAULTS = {
    "APP_ENV": "development", "SERVICE_NAME": "ledger", "SERVICE_VERSION": "unknown",
    "HOST": "127.0.0.1", "PORT": 8000, "OPS_PORT": None,
    "DATABASE_URL": None, "DATABASE_REPLICA_URL": None, "DATABASE_PASSWORD_FILE": None,
    "REPLICA_MAX_LAG": 5,
    "POOL_MIN_SIZE": 5, "POOL_MAX_SIZE": 20, "POOL_INSTANCES": 1, "POOL_HEADROOM": 0.75,
    "POOL_ACQUIRE_TIMEOUT": 5, "POOL_MAX_WAITING": 1000, "POOL_QUEUE_TARGET": 0.25,
    "POOL_CONNECT_TIMEOUT": 5, "POOL_IDLE_TIMEOUT": 30, "POOL_MAX_LIFETIME": 1800,
    "POOL_HEALTH_CHECK_INTERVAL": 15, "POOL_VALIDATE_AFTER": 1, "POOL_LEAK_THRESHOLD": 30,
    "POOL_RESET": "dirty", "STATEMENT_TIMEOUT": 10, "LOCK_TIMEOUT": 3,
    "IDLE_IN_TRANSACTION_TIMEOUT": 30, "COMMAND_TIMEOUT": 15, "BREAKER_FAIL_MAX": 5,
    "BREAKER_RESET_TIMEOUT": 1, "READYZ_FAIL_WHEN_DEGRADED": False, "DRAIN_DELAY": 0,
    "DRAIN_TIMEOUT": 20, "MAX_BODY_BYTES": 65536, "OPS_TOKEN": None, "DOCS": False,
    "LOG_LEVEL": "info", "LOG_FORMAT": "auto", "POOL_KEEPALIVE": 10, "POOL_PGBOUNCER": "auto",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without a variable of the service, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        for variable in (name.upper(), f"{name.upper()}_FILE"):
            monkeypatch.delenv(variable, raising=False)


def faults(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    """The lines that a start with these variables ends in."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    return str(refused.value).splitlines()


class TestSources:
    def test_every_variable_of_the_contract_has_its_default(self) -> None:
        loaded = Settings.load()
        assert {name: getattr(loaded, name.lower()) for name in DEFAULTS} == DEFAULTS

    def test_the_constructor_reads_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", "1234")
        Path(".env").write_text("SERVICE_NAME=other\n")
        assert Settings() == Settings(port=8000, service_name="ledger")

    def test_the_constructor_knows_no_other_names(self) -> None:
        with pytest.raises(ValidationError, match="pool_maxsize"):
            Settings.model_validate({"pool_maxsize": 3})

    def test_the_environment_wins_over_dotenv(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("PORT=1111\nSERVICE_NAME=from-dotenv\nUNKNOWN=1\n")
        monkeypatch.setenv("PORT", "2222")
        loaded = Settings.load()
        assert (loaded.port, loaded.service_name) == (2222, "from-dotenv")

    def test_production_ignores_dotenv(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("PORT=1111\n")
        monkeypatch.setenv("APP_ENV", "production")
        monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/x")
        assert Settings.load().port == 8000

    def test_an_empty_variable_is_an_unset_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", "")
        monkeypatch.setenv("DATABASE_URL", "")
        assert Settings.load() == Settings()

    def test_a_secret_comes_from_the_file_that_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("token").write_text(f"{SECRET}\n")
        monkeypatch.setenv("OPS_TOKEN_FILE", "token")
        token = Settings.load().ops_token
        assert token
        assert token.get_secret_value() == SECRET

    def test_secrets_come_from_the_secrets_directory(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "database_url").write_text(f"postgresql://app:{SECRET}@db/ledger")
        (tmp_path / "database_password").write_text(SECRET)
        (tmp_path / "port").write_text("1111")
        monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
        loaded = Settings.load()
        assert loaded.database_url
        assert loaded.database_url.get_secret_value() == f"postgresql://app:{SECRET}@db/ledger"
        assert loaded.database_password_file == tmp_path / "database_password"
        assert loaded.port == 8000  # only secrets lie there

    def test_a_variable_wins_over_the_secrets_directory(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "ops_token").write_text("from the directory")
        monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
        monkeypatch.setenv("OPS_TOKEN", SECRET)
        token = Settings.load().ops_token
        assert token
        assert token.get_secret_value() == SECRET

    def test_opentelemetrys_variables_are_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
        assert Settings.load().otel["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"


class TestFaults:
    def test_minimum_above_maximum(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert faults(monkeypatch, POOL_MIN_SIZE="30", POOL_MAX_SIZE="20") == [
            "POOL_MIN_SIZE=30: must not exceed POOL_MAX_SIZE=20"
        ]

    @pytest.mark.parametrize(
        ("name", "value", "line"),
        [
            ("PORT", "http", "PORT=http: must be a whole number from 0 to 65535"),
            ("PORT", "70000", "PORT=70000: must be a whole number from 0 to 65535"),
            ("POOL_MAX_SIZE", "many", "POOL_MAX_SIZE=many: must be a whole number from 1 to 10000 or auto"),
            ("POOL_HEADROOM", "nan", "POOL_HEADROOM=nan: must be a number from 0.01 to 1"),
            ("STATEMENT_TIMEOUT", "0", "STATEMENT_TIMEOUT=0: must be a number from 0.001 to 86400"),
            ("LOG_LEVEL", "Loud", "LOG_LEVEL=Loud: must be one of: debug, info, warning, error, critical"),
            ("DOCS", "perhaps", "DOCS=perhaps: must be true or false"),
            ("SERVICE_NAME", "a b\n", "SERVICE_NAME='a b\\n': must be text like ^[A-Za-z0-9._-]{1,30}$"),
            (
                "DATABASE_PASSWORD_FILE",
                "/none",
                "DATABASE_PASSWORD_FILE=/none: must be a file that this process can read",
            ),
            ("SECRETS_DIR", "/none", "SECRETS_DIR=/none: must be a directory"),
            ("SECRETS_DIR", "a\x1bb", r"SECRETS_DIR='a\x1bb': must be a directory"),
            ("SECRETS_DIR", "/" + "x" * 300, f"SECRETS_DIR=/{'x' * 59}...: must be a directory"),
            (
                "OPS_TOKEN_FILE",
                "a\nb\x1b[31m",
                r"OPS_TOKEN_FILE='a\nb\x1b[31m': cannot be read (No such file or directory)",
            ),
            ("POOL_KEEPALIVE", "0.5", "POOL_KEEPALIVE=0.5: must be a whole number from 1 to 7200"),
            ("POOL_PGBOUNCER", "yes", "POOL_PGBOUNCER=yes: must be one of: auto, on, off"),
            ("OPS_TOKEN_FILE", "/none", "OPS_TOKEN_FILE=/none: cannot be read (No such file or directory)"),
            ("LOCK_TIMEOUT", "11", "LOCK_TIMEOUT=11: must not exceed STATEMENT_TIMEOUT=10"),
            ("STATEMENT_TIMEOUT", "15", "STATEMENT_TIMEOUT=15: must be below COMMAND_TIMEOUT=15"),
            ("POOL_QUEUE_TARGET", "5", "POOL_QUEUE_TARGET=5: must be below POOL_ACQUIRE_TIMEOUT=5"),
            ("POOL_MAX_LIFETIME", "9", "POOL_HEALTH_CHECK_INTERVAL=15: must be below POOL_MAX_LIFETIME=9"),
        ],
    )  # fmt: skip
    def test_is_one_readable_line(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
    ) -> None:
        assert faults(monkeypatch, **{name: value}) == [line]

    def test_all_are_told_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = faults(monkeypatch, POOL_MIN_SIZE="x", LOG_LEVEL="loud", LOCK_TIMEOUT="40")
        assert [line.partition("=")[0] for line in lines] == ["POOL_MIN_SIZE", "LOG_LEVEL", "LOCK_TIMEOUT"]

    def test_a_conflict_with_a_faulty_value_is_not_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = faults(monkeypatch, POOL_MIN_SIZE="30", POOL_MAX_SIZE="x")
        assert [line.partition("=")[0] for line in lines] == ["POOL_MAX_SIZE"]

    def test_a_secret_from_two_places(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("token").write_text(SECRET)
        assert faults(monkeypatch, OPS_TOKEN=SECRET, OPS_TOKEN_FILE="token") == [
            "OPS_TOKEN: set either it or OPS_TOKEN_FILE, not both"
        ]

    def test_a_secret_file_that_is_no_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("token").write_bytes(b"\xff\xfe")
        assert faults(monkeypatch, OPS_TOKEN_FILE="token") == [
            "OPS_TOKEN_FILE=token: cannot be read (not text)"
        ]

    def test_no_secret_is_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = faults(
            monkeypatch,
            DATABASE_URL=f"mysql://app:{SECRET}@db/x",
            DATABASE_REPLICA_URL=f"postgresql://app:{SECRET}@db:port/x",
            APP_ENV="production",
            OPS_TOKEN=SECRET[:15],
        )
        assert len(lines) == 3
        assert SECRET[:15] not in "\n".join(lines)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(FIELDS),
            st.text(string.printable, max_size=30)
            | st.integers().map(str)
            | st.floats().map(str)
            | st.sampled_from(["auto", "production", "true", "postgresql://a,b:1/c"]),
            max_size=8,
        )
    )
    def test_any_environment_is_accepted_or_refused_in_lines_that_name_a_variable(
        self, variables: dict[str, str]
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name.upper(), value)
            try:
                loaded = Settings.load()
            except SettingsError as refused:
                for line in str(refused).split("\n"):
                    name = line.partition("=")[0].partition(":")[0].lower()
                    assert name in FIELDS or name.removesuffix("_file") in FIELDS
                    assert line.isprintable()
                    assert " must " in line or ": required" in line or ": cannot" in line
            else:
                assert loaded.pool_max_size == "auto" or loaded.pool_min_size <= loaded.pool_max_size


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Nested(BaseModel):
    name: str
    children: "list[Nested]" = []


class Extended(Settings):
    """What a user may add: a field for each kind of type, with a description or without."""

    required: int
    whole: int = 3
    positive: Annotated[int, Field(gt=0, lt=9)] = 5
    number: float = 1234567.891
    exact: Decimal = Decimal("1.10")
    text: str | None = None
    short: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    names: list[str] = Field(default=["a", "b"])
    pair: tuple[int, str] = (1, "x")
    some: set[int] = Field(default={1})
    table: dict[str, int] = Field(default={"a": 1})
    nested: Nested | None = None
    colour: Colour = Colour.RED
    wait: timedelta = timedelta(seconds=5)
    day: date | None = date(2026, 1, 2)
    where: Path | None = None
    identity: UUID | None = None
    pattern: re.Pattern[str] = re.compile("a+")
    call: Callable[[], int] | None = None
    anything: Any = None
    login: Literal["password", "token"] = "token"
    """How users log in,
    in two lines."""
    keys: list[SecretStr] = Field(default=[])
    address: IPv4Address | None = None


class TestTypesOfAUser:
    """Every type that pydantic knows has its place in the example, and its line when it is wrong."""

    def test_each_is_in_the_example(self) -> None:
        example = variables.render_example(Extended, "", skip={"otel"})
        lines = [line[1:] for line in example.splitlines() if line[1:2].isupper()]
        written = dict(line.split("=", 1) for line in lines)
        assert written.keys() == {name.upper() for name in Extended.model_fields if name != "otel"}
        shown = {
            name: written[name] for name in ("REQUIRED", "NUMBER", "EXACT", "NAMES", "COLOUR", "WAIT", "DAY")
        }
        assert shown == {
            "REQUIRED": "", "NUMBER": "1234567.891", "EXACT": "1.10", "NAMES": '["a", "b"]', "COLOUR": "red",
            "WAIT": "PT5S", "DAY": "2026-01-02",
        }  # fmt: skip
        assert "# How users log in,\n# in two lines.\n# (one of: password, token)\n#LOGIN=token" in example
        assert all(line.startswith("#") or not line for line in example.splitlines())

    @pytest.mark.parametrize(
        ("name", "value", "line"),
        [
            ("WHOLE", "x", "WHOLE=x: must be a whole number"),
            ("POSITIVE", "0", "POSITIVE=0: must be a whole number above 0 below 9"),
            ("NUMBER", "x", "NUMBER=x: must be a number"),
            ("SHORT", "x", "SHORT=x: must be text, length at least 2, length at most 3"),
            ("NAMES", "a,b", "NAMES=a,b: must be a list in JSON, each text"),
            ("NAMES", "[1]", "NAMES=[1]: must be a list in JSON, each text"),
            ("SOME", "1", "SOME=1: must be a list in JSON, each a whole number"),
            ("TABLE", "{", "TABLE={: must be an object in JSON, each a whole number"),
            (
                "NESTED",
                "{}",
                "NESTED={}: must be an object in JSON: name (text), children (a list in JSON, or left out)",
            ),
            ("COLOUR", "green", "COLOUR=green: must be one of: red, blue"),
            ("WAIT", "soon", "WAIT=soon: must be text of the form duration"),
            ("DAY", "soon", "DAY=soon: must be text of the form date"),
            ("IDENTITY", "1", "IDENTITY=1: must be text of the form uuid"),
            ("LOGIN", "none", "LOGIN=none: must be one of: password, token"),
            ("KEYS", SECRET, "KEYS: must be a list in JSON, each a secret"),
        ],
    )
    def test_each_has_its_line(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
    ) -> None:
        monkeypatch.setenv("REQUIRED", "1")
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError) as refused:
            Extended.load()
        assert str(refused.value).splitlines() == [line]

    def test_what_is_required_is_missed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SettingsError, match=r"\AREQUIRED: required\Z"):
            Extended.load()
        monkeypatch.setenv("REQUIRED", "1")
        monkeypatch.setenv("TABLE", '{"b": 2}')
        loaded = Extended.load()
        assert loaded.table == {"b": 2}


class TestProduction:
    @pytest.fixture(autouse=True)
    def _production(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("APP_ENV", "production")

    def test_needs_a_database(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert faults(monkeypatch) == ["DATABASE_URL: required when APP_ENV=production"]

    def test_refuses_a_token_that_can_be_guessed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = faults(monkeypatch, DATABASE_URL="postgresql://localhost/x", OPS_TOKEN="letmein")
        assert lines == ["OPS_TOKEN: must be 16 characters or longer in production"]

    def test_has_its_own_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/x")
        loaded = Settings.load()
        assert (loaded.drain_delay, loaded.serves_docs) == (5, False)
        monkeypatch.setenv("DRAIN_DELAY", "0")
        monkeypatch.setenv("DOCS", "true")
        loaded = Settings.load()
        assert (loaded.drain_delay, loaded.serves_docs) == (0, True)

    def test_warns_where_tls_is_left_to_chance(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{SECRET}@db/x")
        (warning,) = Settings.load().warnings
        assert warning.startswith("DATABASE_URL: sslmode")
        assert SECRET not in warning


class TestTypos:
    @pytest.mark.parametrize(
        ("name", "warning"),
        [
            ("POOL_MAXSIZE", "POOL_MAXSIZE: not a variable of this service; POOL_MAX_SIZE is"),
            ("STATEMENT_TIMOUT", "STATEMENT_TIMOUT: not a variable of this service; STATEMENT_TIMEOUT is"),
            ("OPS_TOKEN_FLE", "OPS_TOKEN_FLE: not a variable of this service; OPS_TOKEN_FILE is"),
            ("BREAKER_COLOUR", "BREAKER_COLOUR: not a variable of this service"),
        ],
    )
    def test_are_warned_of(self, monkeypatch: pytest.MonkeyPatch, name: str, warning: str) -> None:
        monkeypatch.setenv(name, "1")
        assert Settings.load().warnings == (warning,)

    def test_in_dotenv_too(self) -> None:
        Path(".env").write_text("POOL_MINSIZE=3\n")
        assert "POOL_MIN_SIZE is" in Settings.load().warnings[0]

    def test_a_strangers_variable_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HOSTNAME", "LOGNAME", "PORTS", "PGHOST", "DATABASE_PORT", "APP_NAME"):
            monkeypatch.setenv(name, "x")
        assert Settings.load().warnings == ()


class TestSecrets:
    def test_are_not_in_its_representation(self) -> None:
        held = Settings.model_validate(
            {
                "database_url": f"postgresql://app:{SECRET}@db/x",
                "ops_token": SECRET,
                "otel": {"OTEL_EXPORTER_OTLP_HEADERS": SECRET},
            }
        )
        assert SECRET not in f"{held!r} {held} {held.model_dump_json(exclude={'otel'})}"

    def test_are_not_in_the_error_of_who_makes_one_by_hand(self) -> None:
        with pytest.raises(ValidationError) as refused:
            Settings.model_validate({"database_url": f"mysql://{SECRET}", "ops_token": [SECRET]})
        assert "hush" not in str(refused.value)

    def test_are_known_for_those_who_must_hide_them(self, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("from-file\n")
        held = Settings.model_validate(
            {
                "database_url": "postgresql://app:p%40ss@db/x",
                "database_replica_url": "postgresql://db/x?password=replicas postgresql://app:other@a,b/x",
                "database_password_file": tmp_path / "password",
                "ops_token": "token",
                "otel": {"OTEL_EXPORTER_OTLP_HEADERS": "key=1", "OTEL_SERVICE_NAME": "x"},
            }
        )
        assert held.secret_values() == {"p%40ss", "p@ss", "replicas", "other", "from-file", "token", "key=1"}

    def test_of_several_replicas_each_is_judged_and_has_a_url_of_its_own(self) -> None:
        good = Settings.model_validate(
            {"database_replica_url": "postgresql://a,b/x, postgresql://a/x postgresql://c/x"}
        )
        assert good.replica_urls == ("postgresql://a/x", "postgresql://b/x", "postgresql://c/x")
        assert Settings().replica_urls == ()
        with pytest.raises(ValidationError, match="must start with postgresql://"):
            Settings.model_validate({"database_replica_url": f"postgresql://a/x mysql://{SECRET}"})


class TestExample:
    def test_names_every_variable_of_the_contract_with_its_default(self) -> None:
        lines = dict(
            line[1:].split("=", 1)
            for line in env_example(Settings).splitlines()
            if line.startswith("#") and line[1:2].isupper()
        )
        assert set(DEFAULTS) <= set(lines)
        assert lines["POOL_MAX_SIZE"] == "20"
        assert lines["DATABASE_URL"] == ""

    def test_changes_nothing_when_all_of_it_is_uncommented(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for line in env_example(Settings).splitlines():
            if line.startswith("#") and line[1:2].isupper():
                name, value = line[1:].split("=", 1)
                monkeypatch.setenv(name, value)
        os.environ.pop("SECRETS_DIR", None)  # the default need not exist, a named one must
        assert Settings.load() == Settings()
