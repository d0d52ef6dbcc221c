"""Every variable of the service, validated; nothing else reads the environment.

`Settings.load()` reads the environment, `.env` and secret files. The constructor reads nothing:
`Settings(pool_max_size=10)` is the defaults and that one value, on every machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from typing_extensions import override

from lifeguard.pool import PasswordAnswer
from lifeguard.settings import dsn, environment, variables
from lifeguard.settings.environment import Fault
from lifeguard.settings.hidden import secrets_in
from lifeguard.settings.values import (
    IN_BYTES,
    IN_SECONDS,
    SHORTEST_SECRET,
    CommandLine,
    Connections,
    Count,
    Dsn,
    Dsns,
    Environment,
    LogLevel,
    ReadableFile,
    Seconds,
    SecondsOrZero,
    addresses,
    long_enough,
    lower,
)

MOUNTED_SECRETS = Path("/run/secrets")
LARGEST_BODY = 6 * 2**20
"""Bytes: the most that `MAX_BODY_BYTES` and a route's `max_body()` allow. Read as a whole, twice that."""
_EXAMPLE_HEADER = """\
# Every variable of the service, with its default. Written by `make generated` from
# the class `Settings`. Copy it to `.env` (read in development) and uncomment what should differ.
#
# Secrets also come from files: DATABASE_URL_FILE=/path, or a file `database_url` in SECRETS_DIR.
# OpenTelemetry's standard OTEL_* variables turn tracing on.
"""


class SettingsError(ValueError):
    """The environment does not describe a service that can run; one line per fault."""


def _seconds_before_stopping(known: Mapping[str, Any]) -> float:
    return 5.0 if known.get("app_env") == "production" else 0.0


class Settings(BaseSettings):
    """The service's settings; the sentence under each field is what `.env.example` says of it."""

    model_config = SettingsConfigDict(
        defer_build=True,  # of a service's own class only that one is built, when it is used
        env_ignore_empty=True,
        dotenv_filtering="only_existing",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    migrations: ClassVar[Path] = Path("migrations")
    """Alembic's directory; its `versions` say which revision the code needs."""
    defaults: ClassVar[Mapping[str, object]] = {}
    """Other defaults than the engine's, by field: `{"pool_max_size": 10}`. They are checked at import."""
    hidden: ClassVar[Collection[str]] = frozenset({"otel"})
    """Fields that `.env.example` says nothing of. Their variables are read all the same."""
    own_prefixes: ClassVar[tuple[str, ...]] = ("pool_", "breaker_", "drain_", "readyz_", "replica_")
    """A variable that begins like this and is no field is warned of at the start, as is a likely typo."""

    app_env: Environment = "development"
    """What the service runs as; `production` refuses defaults that are unsafe there."""
    service_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,30}$")] = "service"
    """`application_name` at the server, and the name in logs and traces."""
    service_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]{1,64}$")] = "unknown"
    """What is deployed; only `/metrics` says it. The image sets it when it is built."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """Port to listen on; 0 lets the system choose one."""
    forwarded_allow_ips: Annotated[str, AfterValidator(addresses)] = "127.0.0.1"
    """Addresses and networks of the proxies whose `X-Forwarded-For` is believed, with commas; `*` is all."""
    ops_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Port of HOST where probes, metrics, pool pages and docs are served, and then nowhere else."""

    database_url: Dsn | None = None
    """libpq URL of the database, several hosts allowed; without it development embeds a server."""
    database_replica_url: Dsns | None = None
    """libpq URLs of the replicas, with spaces or commas between them, and a read pool for each of their
    hosts."""
    replica_max_lag: Annotated[float, Field(ge=0.1, le=86_400, json_schema_extra=IN_SECONDS)] = 5.0
    """A replica that is further behind the primary, in seconds, is not read."""
    replica_max_lag_bytes: Annotated[int, Field(ge=1024, json_schema_extra=IN_BYTES)] | None = None
    """Bytes of WAL behind the primary above which a replica is not read; none: only seconds count."""
    consistency_secret: Annotated[SecretStr, AfterValidator(long_enough)] | None = None
    """Signs consistency tokens, the same for all instances; of several with spaces the first signs, and all
    are accepted. Without it the cluster's `system_identifier` signs."""
    consistency_wait: Annotated[float, Field(ge=0, le=10, json_schema_extra=IN_SECONDS)] = 0.25
    """Longest wait in seconds of a read with a token for a replica that has the write, before the primary."""
    consistency_ttl: Annotated[float, Field(ge=1, le=86_400, json_schema_extra=IN_SECONDS)] = 3600.0
    """A token is ignored after so many seconds and REPLICA_MAX_LAG: what is read has the write by then."""
    consistency_cookie: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """Name of a cookie that keeps a browser's token; without it tokens are in `X-Consistency-Token` only."""
    database_password_file: ReadableFile | None = None
    """File with the database password, read at every connect; it wins over a password in a URL."""
    database_password_command: CommandLine | None = None
    """Program that prints the database password, or a token and its expiry; it wins over one in a URL."""

    pool_min_size: Annotated[int, Field(ge=0, le=10_000)] = 5
    """Connections that are kept open even when nobody asks."""
    pool_max_size: Annotated[Connections | Literal["auto"], BeforeValidator(lower)] = 20
    """Most server sessions at once; `auto` shares the server's `max_connections` out."""
    pool_instances: Annotated[Count | Literal["auto"], BeforeValidator(lower)] = 1
    """Processes that share the server: instances times workers, the surge of a rollout included. `auto`: they
    find each other there, and each pool's maximum is its share."""
    pool_headroom: Annotated[float, Field(ge=0.01, le=1)] = 0.75
    """Part of the server's `max_connections` that `auto` may share out."""
    pool_acquire_timeout: Seconds = 5.0
    """Longest wait for a connection, in seconds."""
    pool_max_waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """Longest queue for a connection; requests that come then are turned away at once."""
    pool_queue_target: SecondsOrZero = 0.25
    """Standing wait in seconds above which the excess is shed; 0 turns shedding off."""
    pool_outage_patience: SecondsOrZero = 2.0
    """Seconds of an outage in which requests wait for its end; then they are refused at once. 0: none."""
    pool_connect_timeout: Seconds = 5.0
    """Longest wait in seconds for each host of the URL."""
    pool_keepalive: Annotated[int, Field(ge=1, le=7200, json_schema_extra=IN_SECONDS)] = 10
    """A silent TCP connection is probed after so many seconds, from this side and from the server's."""
    pool_pgbouncer: Annotated[Literal["auto", "on", "off"], BeforeValidator(lower)] = "auto"
    """A pooler that gives each transaction another session: `auto` asks at the first connect, `off` never."""
    pool_idle_timeout: SecondsOrZero = 30.0
    """Connections above the minimum are closed after so many idle seconds; 0 keeps them."""
    pool_max_lifetime: SecondsOrZero = 1800.0
    """Connections are replaced after so many seconds, with jitter; 0 keeps them."""
    pool_health_check_interval: SecondsOrZero = 15.0
    """Idle connections are probed this often, in seconds; 0 turns probing off."""
    pool_validate_after: SecondsOrZero = 1.0
    """A connection whose server has not answered for longer, in seconds, is validated before it is lent."""
    pool_leak_threshold: SecondsOrZero = 30.0
    """A connection held longer, in seconds, is reported with who holds it; 0 turns that off."""
    pool_reset: Annotated[Literal["dirty", "always", "never"], BeforeValidator(lower)] = "dirty"
    """When a returned connection's session state is reset: only when changed, each time, never."""

    statement_timeout: Seconds = 10.0
    """The server ends a statement after so many seconds."""
    lock_timeout: Seconds = 3.0
    """The server ends a wait for a lock after so many seconds."""
    idle_in_transaction_timeout: Seconds = 30.0
    """The server ends a session that idles inside a transaction for so many seconds."""
    command_timeout: Seconds = 15.0
    """The client gives a statement up after so many seconds: for servers that fell silent."""
    tag_statements: bool = False
    """Whether `application_name` has the request's id outside of transactions too: two round trips more."""

    breaker_fail_max: Count = 5
    """Consecutive failures of the database that open the breaker."""
    breaker_reset_timeout: Annotated[float, Field(ge=0.001, le=10, json_schema_extra=IN_SECONDS)] = 1.0
    """First open period of the breaker in seconds; it doubles up to 10."""
    readyz_fail_when_degraded: bool = False
    """Whether `/readyz` answers 503 while the breaker is open, instead of 200 `degraded`."""

    drain_delay: SecondsOrZero = Field(default_factory=_seconds_before_stopping)
    """Seconds of service after SIGTERM while load balancers notice; 0, in production 5."""
    drain_timeout: Seconds = 20.0
    """Seconds to finish requests and return connections before they are cut."""
    drain_streams: SecondsOrZero = 1.0
    """Seconds that event streams and WebSockets have once the drain has begun."""

    max_body_bytes: Annotated[int, Field(ge=1, le=LARGEST_BODY, json_schema_extra=IN_BYTES)] = 65_536
    """Bytes of the largest request body, but where a route has `max_body()`. Larger ones are answered 413."""
    max_buffered_bytes: Annotated[int, Field(ge=1, le=2**40, json_schema_extra=IN_BYTES)] = 67_108_864
    """Most bytes of all requests under way together; bodies that come then are answered 503."""
    plans: bool = True
    """Whether requests are answered by plans that are made once a route; `false` leaves all to FastAPI."""
    ops_token: SecretStr | None = None
    """Bearer token of `/pool/leases`, which outside development refuses everybody without it."""
    docs: bool = False
    """Whether production serves `/docs` and `/openapi.json`; development always does."""
    log_level: LogLevel = "info"
    """Least severe log line that is written."""
    log_format: Annotated[Literal["json", "console", "auto"], BeforeValidator(lower)] = "auto"
    """Form of the log; `auto` is console on a terminal, else JSON."""
    secrets_dir: Path = MOUNTED_SECRETS
    """Directory, when it exists, whose files `database_url`, `ops_token`, ... hold secrets."""

    otel: Annotated[Mapping[str, str], NoDecode] = Field(default={}, repr=False)
    """OpenTelemetry's standard variables; any exporter among them turns tracing on."""

    _typos: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    @override
    def __pydantic_init_subclass__(cls, **_: Any) -> None:  # Any: pydantic's
        """Raise TypeError for a class that says of its variables what cannot be."""
        for name in cls.model_fields:
            variables.names_of(cls, name)
        for name in {*cls.defaults, *cls.hidden} - cls.model_fields.keys():
            raise TypeError(f"{cls.__name__}: there is no field {name}")
        faults = environment.faults_of(cls, {}) if cls.defaults else []
        if wrong := [fault.line for fault in faults if not fault.variables.isdisjoint(cls.defaults)]:
            raise TypeError(f"{cls.__name__}.defaults: {'; '.join(wrong)}")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:  # Any: pydantic's
        """Let `defaults` stand in for what is not given."""
        if not isinstance(given, dict):
            return given
        missing = {
            names[0]: value
            for field, value in cls.defaults.items()
            if given.keys().isdisjoint(names := variables.names_of(cls, field))
        }
        return {**missing, **given}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Make the constructor read its arguments and nothing else; `load` reads the rest."""
        return (init_settings,)

    @classmethod
    def load(cls) -> Self:
        """Read the environment, `.env` (not in production) and secret files, in this order.

        Raises `SettingsError` with one readable line for each fault.
        """
        values, found, faults = environment.read(cls)
        values["otel"] = {
            name.upper(): value or "" for name, value in found.items() if name.startswith("otel_")
        }
        try:
            settings = cls(**values)
        except ValidationError:
            faults = [*faults, *environment.faults_of(cls, values)]
        if faults:
            raise SettingsError("\n".join(fault.line for fault in faults))
        for name, value in settings.otel.items():
            for header in value.split(",") if name.endswith("_HEADERS") else ():  # name=value,name=value
                environment.note_secret(header.partition("=")[2].strip())
        settings._typos = tuple(variables.typos(cls, found, cls.own_prefixes))
        return settings

    async def password_for(self, host: str, port: int, user: str) -> PasswordAnswer:
        """The password of one host, in a subclass: text, or text and its expiry (a datetime with a zone, or
        seconds since 1970), until which it is kept. Text alone is asked for at every connect. None leaves
        what the URL says.

        Not asked where DATABASE_PASSWORD_COMMAND or DATABASE_PASSWORD_FILE is set: docs/passwords.md. What it
        raises, or POOL_CONNECT_TIMEOUT, is a failure to connect.
        """
        raise NotImplementedError

    @property
    def has_password_hook(self) -> bool:
        """Whether a subclass gives passwords by `password_for()`."""
        return type(self).password_for is not Settings.password_for

    @property
    def in_production(self) -> bool:
        return self.app_env == "production"

    @property
    def serves_docs(self) -> bool:
        return self.docs or not self.in_production

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may be a mistake but does not stop the start, a line each."""
        plaintext = [
            f"{name.upper()}: sslmode is not set, so the connection may silently go without TLS;"
            " say verify-full, or disable if that is meant"
            for name in ("database_url", "database_replica_url")
            if self.in_production and any(map(dsn.may_fall_back_to_plaintext, self._dsns(name)))
        ]
        return (*self._typos, *plaintext)

    @property
    def consistency_secrets(self) -> tuple[str, ...]:
        return tuple(self.consistency_secret.get_secret_value().split()) if self.consistency_secret else ()

    def secret_values(self) -> frozenset[str]:
        """Everything that must never be shown, as it would be found in a text."""
        urls = (*self._dsns("database_url"), *self._dsns("database_replica_url"))
        found = frozenset[str]().union(*map(dsn.secrets, urls))
        # A whole URL is no secret: its hosts and names are in every other line.
        for name in type(self).model_fields.keys() - {"database_url", "database_replica_url", "otel"}:
            found |= frozenset(secrets_in(getattr(self, name)))
        found |= frozenset(self.consistency_secrets)
        if self.database_password_file:
            found |= {environment.read_secret(self.database_password_file)}
        found |= {value for name, value in self.otel.items() if name.endswith("_HEADERS")}
        return found - {""}

    @property
    def replica_urls(self) -> tuple[str, ...]:
        """A URL for each host that `DATABASE_REPLICA_URL` names, in its order."""
        urls = self._dsns("database_replica_url")
        return tuple(dict.fromkeys(one for url in urls for one in dsn.each_host(url)))

    def _dsns(self, name: str) -> list[str]:
        secret: SecretStr | None = getattr(self, name)
        return dsn.several(secret.get_secret_value()) if secret else []

    @model_validator(mode="after")
    def _values_agree(self) -> Self:
        if conflicts := list(self._conflicts()):
            text = "\n".join(conflict.line for conflict in conflicts)
            raise PydanticCustomError("conflicts", "{text}", {"text": text, "faults": conflicts})
        return self

    def _conflicts(self) -> Iterator[Fault]:
        """Yield what is wrong with values that are each allowed alone."""
        if isinstance(self.pool_max_size, int) and self.pool_min_size > self.pool_max_size:
            yield self._misordered("pool_min_size", "must not exceed", "pool_max_size")
        if self.pool_queue_target >= self.pool_acquire_timeout:
            yield self._misordered("pool_queue_target", "must be below", "pool_acquire_timeout")
        if self.pool_health_check_interval >= self.pool_max_lifetime > 0:
            yield self._misordered("pool_health_check_interval", "must be below", "pool_max_lifetime")
        if self.lock_timeout > self.statement_timeout:
            yield self._misordered("lock_timeout", "must not exceed", "statement_timeout")
        if self.statement_timeout >= self.command_timeout:
            yield self._misordered("statement_timeout", "must be below", "command_timeout")
        if self.max_body_bytes > self.max_buffered_bytes:
            yield self._misordered("max_body_bytes", "must not exceed", "max_buffered_bytes")
        if self.ops_port is not None and self.ops_port == self.port:
            line = f"OPS_PORT={self.ops_port}: must differ from PORT={self.port}"
            yield Fault(frozenset({"ops_port", "port"}), line)
        yield from self._conflicts_about_passwords()
        if self.in_production:
            yield from self._conflicts_in_production()

    def _conflicts_about_passwords(self) -> Iterator[Fault]:
        if self.database_password_command and self.database_password_file:
            yield Fault(
                frozenset({"database_password_command", "database_password_file"}),
                "DATABASE_PASSWORD_COMMAND: set either it or DATABASE_PASSWORD_FILE, not both",
            )

    def _conflicts_in_production(self) -> Iterator[Fault]:
        if self.database_url is None:
            yield Fault(
                frozenset({"app_env", "database_url"}),
                "DATABASE_URL: required when APP_ENV=production",
            )
        if self.ops_token and len(self.ops_token) < SHORTEST_SECRET:
            yield Fault(
                frozenset({"app_env", "ops_token"}),
                f"OPS_TOKEN: must be {SHORTEST_SECRET} characters or longer in production",
            )

    def _misordered(self, name: str, relation: str, other: str) -> Fault:
        value, limit = getattr(self, name), getattr(self, other)
        line = f"{name.upper()}={value:g}: {relation} {other.upper()}={limit:g}"
        return Fault(frozenset({name, other}), line)


def env_example(model: type[Settings]) -> str:
    """Render `.env.example`: every variable with its sentence, what it may be, and its default."""
    return variables.render_example(model, _EXAMPLE_HEADER, skip=model.hidden)
