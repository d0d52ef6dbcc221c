"""A service's own settings: whatever type a variable has, it is shown, refused and kept secret."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import httpx
import lifeguard.settings
import pytest
from fastapi import Depends, FastAPI
from lifeguard.observability import Scrubber
from lifeguard.settings import SettingsError, env_example
from lifeguard.settings.hidden import holds_secret
from lifeguard.web import settings_of
from pydantic import (
    AliasChoices,
    AliasPath,
    AnyUrl,
    Field,
    Secret,
    SecretBytes,
    SecretStr,
    TypeAdapter,
    create_model,
    field_validator,
    model_validator,
)

from packages.lifeguard.tests.sample.settings import Settings

SECRET = "canary-hush-hush"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Kind(NamedTuple):
    """A type, a value of it as JSON has it, one that is none (None: there is none), and the secrets in it."""

    annotation: Any
    value: Any
    wrong: Any
    secrets: frozenset[str] = frozenset()


LEAVES = [
    Kind(int, 5, "x"),
    Kind(float, 0.5, "x"),
    Kind(bool, True, "perhaps"),
    Kind(str, "text with a # and ' in it", None),
    Kind(Literal["a", "b"], "b", "c"),
    Kind(Literal[1, 2], 2, 3),
    Kind(Colour, "blue", "green"),
    Kind(Level, 2, 3),
    Kind(Annotated[int, Field(gt=0, strict=True)], 3, -1),
    Kind(Path, "/srv/x", None),
    Kind(timedelta, "PT5S", "soon"),
    Kind(datetime, "2026-01-02T03:04:05", "soon"),
    Kind(AnyUrl, f"redis://me:{SECRET}@cache/0", f"::{SECRET}", frozenset({SECRET})),
    Kind(SecretStr, SECRET, None, frozenset({SECRET})),
    Kind(SecretBytes, SECRET, None, frozenset({SECRET})),
    Kind(Secret[int], 7777777, "x", frozenset({"7777777"})),
]


def _wrapped(inner: Kind) -> list[Kind]:
    secrets = inner.secrets
    wrong = [inner.wrong] if inner.wrong is not None else "none"
    model = create_model("Nested", part=(inner.annotation, ...))
    made: Any = dataclass(type("Made", (), {"__annotations__": {"part": inner.annotation}}))
    return [
        Kind(list[inner.annotation], [inner.value], wrong, secrets),  # type: ignore[name-defined]  # made here
        Kind(tuple[inner.annotation, int], [inner.value, 1], wrong, secrets),  # type: ignore[name-defined]
        Kind(dict[str, inner.annotation], {"a b": inner.value}, wrong, secrets),  # type: ignore[name-defined]
        Kind(model, {"part": inner.value}, {}, secrets),
        Kind(made, {"part": inner.value}, {}, secrets),
        Kind(inner.annotation | None, inner.value, inner.wrong, secrets),
    ]


def _made_of(leaf: Kind) -> list[Kind]:
    """The leaf alone, in something, and in something that is in something."""
    random = Random(repr(leaf.annotation))
    inner = random.choice(_wrapped(leaf))
    return [leaf, inner, random.choice(_wrapped(inner))]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _load(model: type[Settings], variables: Mapping[str, str], directory: Path) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(os, "environ", {})  # whose many names would each be compared with the service's own
        for name, value in variables.items():
            patch.setenv(name, value)
        return model.load()


def _model(kind: Kind, **field: Any) -> type[Settings]:
    field.setdefault("description", "What it is for.")
    made: type[Settings] = create_model(
        "Made", __base__=Settings, own_thing=(kind.annotation, Field(**field))
    )
    return made


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: str(leaf.annotation))
def test_any_type_is_shown_read_refused_and_kept_secret(
    tmp_path_factory: pytest.TempPathFactory, leaf: Kind
) -> None:
    for kind in _made_of(leaf):
        _is_shown_read_refused_and_kept_secret(tmp_path_factory.mktemp("settings"), kind)


def _is_shown_read_refused_and_kept_secret(directory: Path, kind: Kind) -> None:
    model = _model(kind)
    assert "\n# What it is for.\n# (" in env_example(model)
    with pytest.raises(SettingsError, match=r"\AOWN_THING: required\Z"):
        _load(model, {}, directory)

    loaded: Any = _load(model, {"OWN_THING": _text(kind.value)}, directory)
    expected = TypeAdapter(kind.annotation).validate_json(json.dumps(kind.value))
    assert loaded.own_thing == expected
    assert kind.secrets <= loaded.secret_values()
    scrub = Scrubber(loaded.secret_values())
    assert not any(secret in scrub(f"it is {secret}!") for secret in kind.secrets)

    if kind.wrong is not None:
        with pytest.raises(SettingsError) as refused:
            _load(model, {"OWN_THING": _text(kind.wrong)}, directory)
        line = str(refused.value)
        assert line.startswith("OWN_THING")
        assert line.isprintable()
        assert " must be " in line

    # As a default it is in the example, unless it is a secret, and changes nothing there.
    by_default = _model(kind, default=expected)
    line = next(line for line in env_example(by_default).splitlines() if line.startswith("#OWN_THING="))
    Path(directory, ".env").write_text(line[1:])
    again: Any = _load(by_default, {}, directory)
    assert again.own_thing == expected
    if holds_secret(kind.annotation):
        assert line == "#OWN_THING="
        Path(directory, ".env").unlink()
        Path(directory, "secret").write_text(f"{_text(kind.value)}\n")
        read: Any = _load(model, {"OWN_THING_FILE": "secret"}, directory)
        Path(directory, "own_thing").write_text(_text(kind.value))
        lying: Any = _load(model, {"SECRETS_DIR": str(directory)}, directory)
        assert read.own_thing == lying.own_thing == expected


class Own(Settings):
    """One of each that needs a look of its own."""

    defaults: ClassVar[Mapping[str, object]] = {"service_name": "orders", "pool_max_size": 7}
    hidden: ClassVar = frozenset({"otel", "docs"})
    own_prefixes: ClassVar = (*Settings.own_prefixes, "mail_")

    port: int = 9000
    mail_key: SecretStr | None = None
    named: int = Field(default=1, alias="OWN_NAME")
    moved: SecretStr = Field(default=SecretStr(""), validation_alias=AliasChoices("NEW_NAME", "OLD_NAME"))
    tags: set[str] = Field(default={"c", "a", "b"})
    even: int = 2
    tls_key: SecretStr | None = None
    tls_key_file: Path | None = None
    made_anew: float = Field(default_factory=iter(range(10**6)).__next__)
    deep: list[Any] = Field(default=[])

    @field_validator("even", "mail_key")
    @classmethod
    def _must_be_even(cls, value: int | SecretStr | None) -> int | SecretStr | None:
        if isinstance(value, SecretStr):
            raise ValueError(f"{value.get_secret_value()} is no key")  # noqa: TRY004 - it is one for the line
        if value is not None and value % 2:
            raise AssertionError("must be even")  # as an `assert` does, but in a test
        return value

    @model_validator(mode="after")
    def _agree(self) -> "Own":
        if self.even == 4 and self.named == 4:
            raise ValueError("EVEN and OWN_NAME must differ")
        return self


class Other(lifeguard.settings.Settings):
    """Those of another service."""


class TestOwnSettings:
    @pytest.fixture(autouse=True)
    def _nothing_set(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)

    def test_have_other_defaults_which_the_environment_overrides(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = Own.load()
        assert (loaded.service_name, loaded.pool_max_size, loaded.port) == ("orders", 7, 9000)
        example = env_example(Own)
        assert "#SERVICE_NAME=orders\n" in example
        assert (
            "# Port to listen on; 0 lets the system choose one.\n# (a whole number)\n#PORT=9000\n" in example
        )
        monkeypatch.setenv("SERVICE_NAME", "others")
        assert Own.load().service_name == "others"
        assert (Own().service_name, Own(service_name="x").service_name) == ("orders", "x")

    @pytest.mark.parametrize(
        "wrong",
        [{"pool_maxsize": 7}, {"pool_max_size": 0}, {"pool_min_size": 21}, {"port": "http"}],
    )
    def test_with_impossible_defaults_are_no_class(self, wrong: dict[str, object]) -> None:
        name = next(iter(wrong))
        with pytest.raises(TypeError, match=rf"(?i)\b{name}\b"):
            type("Wrong", (Settings,), {"defaults": wrong, "__annotations__": {"defaults": ClassVar}})

    def test_with_an_alias_into_something_else_are_no_class(self) -> None:
        with pytest.raises(TypeError, match=r"Wrong\.part: a variable's alias must be a name"):
            create_model("Wrong", __base__=Settings, part=(int, Field(1, validation_alias=AliasPath("a", 0))))

    def test_are_in_the_example_by_their_variables(self) -> None:
        example = env_example(Own)
        for line in ("OWN_NAME=1", "NEW_NAME=", 'TAGS=["a", "b", "c"]', "MADE_ANEW=", "DEEP=[]"):
            assert f"\n#{line}\n" in example
        assert "DOCS=" not in example
        assert "OTEL" not in example.partition("\n\n")[2]

    @pytest.mark.parametrize(
        ("variables", "line"),
        [
            ({"OWN_NAME": "x"}, "OWN_NAME=x: must be a whole number"),
            ({"EVEN": "3"}, "EVEN=3: must be even"),
            ({"EVEN": "4", "OWN_NAME": "4"}, "EVEN and OWN_NAME must differ"),
            ({"MAIL_KEY": SECRET}, "MAIL_KEY: *** is no key"),
            ({"DEEP": "[" * 100_000}, f"DEEP={'[' * 60}...: must be a list in JSON"),
            ({"NEW_NAME": "a", "NEW_NAME_FILE": "b"}, "NEW_NAME: set either it or NEW_NAME_FILE, not both"),
        ],
    )
    def test_have_their_line_when_they_are_wrong(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], line: str
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError) as refused:
            Own.load()
        assert str(refused.value) == line

    def test_of_several_names_are_found_by_any(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OLD_NAME", SECRET)
        assert Own.load().moved.get_secret_value() == SECRET
        monkeypatch.delenv("OLD_NAME")
        Path("key").write_text(SECRET)
        monkeypatch.setenv("OLD_NAME_FILE", "key")
        loaded = Own.load()
        assert loaded.moved.get_secret_value() == SECRET
        assert loaded.warnings == ()

    def test_a_file_that_is_a_variable_itself_is_not_read_for_another(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TLS_KEY_FILE", "/none")
        loaded = Own.load()
        assert (loaded.tls_key, loaded.tls_key_file) == (None, Path("/none"))

    @pytest.mark.parametrize(
        ("name", "warning"),
        [
            ("MAIL_KEYS", "MAIL_KEYS: not a variable of this service; MAIL_KEY is"),
            ("MAIL_COLOUR", "MAIL_COLOUR: not a variable of this service"),
            ("OWN_NAMES", "OWN_NAMES: not a variable of this service; OWN_NAME is"),
        ],
    )
    def test_typos_are_warned_of(self, monkeypatch: pytest.MonkeyPatch, name: str, warning: str) -> None:
        monkeypatch.setenv(name, "1")
        assert Own.load().warnings == (warning,)

    def test_every_part_of_a_secret_url_is_kept(self) -> None:
        held = _model(Kind(SecretStr, "", None)).model_validate(
            {"own_thing": f"amqp://me:{SECRET}%21@one,you:second@two/x"}
        )
        assert {f"{SECRET}%21", f"{SECRET}!", "second"} <= held.secret_values()

    async def test_an_endpoint_gets_them_as_what_they_are(self) -> None:
        service = FastAPI()

        @service.get("/")
        async def show(own: Annotated[Own, Depends(settings_of(Own))]) -> str:
            return f"{own.service_name} {own.even}"

        @service.get("/other")
        async def refuse(other: Annotated[Other, Depends(settings_of(Other))]) -> None: ...

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await service({**scope, "state": {"settings": Own()}}, receive, send)

        transport = httpx.ASGITransport(with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/")).json() == "orders 2"
            with pytest.raises(TypeError, match="settings are Own, not Other"):
                await client.get("/other")
        assert settings_of(Own) is settings_of(Own)  # so it is called once, and can be overridden
