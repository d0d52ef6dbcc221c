"""`make feature`: what names it takes, and what it leaves behind when it takes none."""

import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from lifeguard.development.feature.__main__ import main, make
from lifeguard.development.feature.files import files_of, in_layers, mounted
from lifeguard.development.feature.names import LONGEST, RESERVED, NameRefused, Names

MAIN = """\
from app.settings import Settings


def create_app(settings: Settings) -> Service:
    service = Service(settings)
    return service
"""
LAYERS = """\
[[tool.importlinter.contracts]]
id = "service"
type = "layers"
containers = ["app"]
layers = ["__main__", "commands", "main", "settings"]
exhaustive = true
"""


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("orders", "order"),
        ("invoices", "invoice"),
        ("companies", "company"),
        ("days", "day"),
        ("boxes", "box"),
        ("branches", "branch"),
        ("wishes", "wish"),
        ("addresses", "address"),
        ("sizes", "size"),
        ("purchase-orders", "purchase_order"),
    ],
)
def test_a_plain_plural_gives_its_singular_away(plural: str, singular: str) -> None:
    assert Names.of(plural) == Names(plural.replace("-", "_"), singular)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "needs a name"),
        *(
            (name, "SINGULAR=")
            for name in ("people", "data", "statuses", "houses", "wolves", "heroes", "movies", "bus", "s")
        ),
        *(
            (name, f"^{name!r} is no name")
            for name in ("Orders", "Bad-Names", "9s", "a--bs", "_as", "as_", "a b", "örders", "x;y")
        ),
        ("x" * LONGEST + "s", "are the most"),
    ],
)
def test_what_is_no_name_is_refused(name: str, said: str) -> None:
    with pytest.raises(NameRefused, match=said):
        Names.of(name)


@pytest.mark.parametrize(
    "name", ["class", "order", "types", "calendar", "vars", "settings", "lifeguard", "pg_things"]
)
def test_what_means_something_else_is_refused(name: str) -> None:
    with pytest.raises(NameRefused):
        Names.of(name, "one")


async def test_words_that_no_table_can_be_called_are_those_of_the_server(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    words = await connection.fetch("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
    await connection.close()
    assert {row["word"] for row in words} == RESERVED


@pytest.mark.parametrize(
    "names",
    [Names.of("axes", "ax"), Names.of("apples"), Names.of("abcde_" * 3 + "as"), Names.of("classes")],
    ids=lambda names: names.plural,
)
def test_files_are_formatted_whatever_the_name(names: Names, tmp_path: Path) -> None:
    for path, text in files_of(names, "0001", None).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        assert not re.search(r"wid.?get", text, re.IGNORECASE), path
    ruff = [
        str(Path(sys.executable).with_name("ruff")),
        "--config",
        "pyproject.toml",
        "--quiet",
        "--no-cache",
    ]
    for command in (["format", "--check"], ["check", "--select", "E,F,A,N"]):
        done = subprocess.run(
            [ruff[0], *command, *ruff[1:], str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_routers_are_included_in_the_order_in_which_they_came() -> None:
    one, two = Names.of("parcels"), Names.of("boxes")
    text = mounted(mounted(MAIN, one), two)
    assert "from app import boxes, parcels\nfrom app.settings" in text
    assert (
        "    service.include_router(parcels.router)\n    service.include_router(boxes.router)\n    return"
        in text
    )
    assert '"main", "(parcels) : (boxes)", "settings"' in in_layers(in_layers(LAYERS, one), two)


@pytest.mark.parametrize("name", ["settings", "services"])
def test_a_name_that_the_service_uses_is_refused(name: str) -> None:
    with pytest.raises(NameRefused, match="already"):
        mounted(MAIN.replace("service =", "services ="), Names(name, "x"))


@pytest.mark.parametrize(
    "there", ["app/parcels/x.py", "tests/parcels/x.py", "app/parcels.py", "migrations/versions/0001_x.py"]
)
def test_where_something_is_in_the_way_nothing_is_written(there: str, tmp_path: Path) -> None:
    (tmp_path / "migrations/versions").mkdir(parents=True)
    (tmp_path / "app").mkdir()
    (tmp_path / "app/main.py").write_text(MAIN)
    (tmp_path / "pyproject.toml").write_text(LAYERS)
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text(
        'revision = "0001"\ndown_revision = None\n"CREATE TABLE parcels (id bigint)"\n'
    )
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(NameRefused, match="already"):
        make(tmp_path, Names.of("parcels"))
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["parcels", "my-news", "order"])  # plain, and none that could be made
def test_a_feature_that_is_there_is_said_to_be_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"app/{name.replace('-', '_')}"
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "app/main.py").write_text(f"from app import {name.replace('-', '_')}\n{MAIN}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make feature", name])
    assert main() == 2
    assert f"make feature: {folder} is there already" in capsys.readouterr().err
