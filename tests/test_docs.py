"""The documents tell the truth: whatever they name exists, and what must be in them is."""

import re
import tomllib
from dataclasses import fields
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import lifeguard
import pytest
import typer
from lifeguard.operations.checks.examination import CHECKS
from lifeguard.pool import PoolStats
from lifeguard.pool.config import PoolConfig
from lifeguard.pool.faults import FAULTS

from app.commands import cli
from app.settings import Settings
from bench import readme, tables
from docs.reference import events
from docs.reference.__main__ import stale
from tests.inside import service, settings_for

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
INDEX = ROOT / "docs/index.md"
METRICS = ROOT / "docs/reference/metrics.md"
POOL = ROOT / "docs/pool.md"
DOCTOR = ROOT / "docs/doctor.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
ENGINE = Path(lifeguard.__file__).parent
MAKEFILES = (ROOT / "Makefile", *ROOT.glob("template/*.mk"))
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "bench/README.md",
        *(ROOT / "packages").glob("*/README.md"),
    ]
)

OPTIONAL = ("app/ledger", "packages")
"""What a service may have deleted."""
GONE = tuple(path for path in OPTIONAL if not (ROOT / path).exists())
MADE = ("app/orders", "tests/orders")
"""What somebody who follows a document makes."""
IS_STARTER = [path.parent.name for path in (ROOT / "app").glob("*/__init__.py")] == ["ledger"]
"""Else `app/` is its owner's, who may have added what the documents do not show."""
NO_MODULES = frozenset(("app.add_middleware", "app.nightly_job"))
"""Names in the documents that look like one."""
SHOWN_FILE = re.compile(r"<!-- file:.*?<!-- /file -->", re.DOTALL)
"""A file of the cookbook on its page; mypy and its test know whether that is right."""

LONGEST_README = 150

every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def named(text: str) -> set[str]:
    """What is in backquotes outside of code blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", prose))


def table(text: str, heading: str) -> str:
    """The section under a heading."""
    return text.partition(f"\n{heading}\n")[2].partition("\n#")[0]


def first_cells(section: str) -> set[str]:
    """The names in the first column of a section's tables."""
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {name for cell in cells for name in named(cell)}


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_gone(path: str) -> bool:
    """Whether it went with something that may be deleted, like the ledger's tests and migrations with it."""
    return any(Path(gone).name in path for gone in GONE)


def resolves(name: str) -> bool:
    """Whether a dotted name is that of a module or of something in one."""
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists() or is_gone(path), link
        assert not anchor or not target.exists() or anchor in anchors(target), link


@every_document
def test_paths_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path in re.findall(
        r"(?<![\w/.<])(?:app|packages|tests|bench|deploy|docs|migrations|\.ci)/[\w./-]*\w", text
    ):
        assert (ROOT / path).exists() or is_gone(path) or path.startswith(MADE), path


@every_document
def test_modules_exist(document: Path) -> None:
    """Those that are named as Python does, and those that are a path in a room of the engine."""
    text = SHOWN_FILE.sub("", document.read_text(encoding="utf-8"))
    for name in re.findall(r"(?<![\w./:-])((?:lifeguard|app)(?:\.[A-Za-z]\w*)+)(?![\w/-])", text):
        assert resolves(name) or is_gone(name) or name in NO_MODULES, name
    rooms = "|".join(path.parent.name for path in ENGINE.glob("*/__init__.py"))
    for path in re.findall(rf"(?<![\w./-])(?:{rooms})/[\w/]+\.py", text):
        assert (ENGINE / path).exists(), path


def test_the_tree_of_folders_is_the_one_that_is_there() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    tree = re.search(r"^```\n(app/ .*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert tree
    shown: list[Path] = []
    levels: list[Path] = [ROOT]
    for line in tree[1].splitlines():
        name = line.split()[0]
        del levels[(len(line) - len(line.lstrip())) // 2 + 1 :]
        levels.append(levels[-1] / name)
        shown.append(levels[-1])
    for path in shown:
        assert path.exists() or is_gone(str(path.relative_to(ROOT))), path
    if IS_STARTER:
        assert _parts(ROOT / "app") <= {path.name for path in shown if path.parent == ROOT / "app"}
    assert _parts(ENGINE) == {path.name for path in shown if path.parent.match("src/lifeguard")}


def _parts(package: Path) -> set[str]:
    """The modules and packages in it, as the tree writes them."""
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    return modules | {path.parent.name for path in package.glob("*/__init__.py")}


def test_the_picture_of_the_rooms_shows_the_layers_that_are_enforced() -> None:
    picture = ARCHITECTURE.read_text(encoding="utf-8").partition("```mermaid")[2].partition("```")[0]
    drawn = {
        package: re.findall(r"\w+", " ".join(re.findall(r'\["([^<"]+)<br>', rooms)))
        for package, rooms in re.findall(r"subgraph (\w+)\n(.*?)\n    end", picture, re.DOTALL)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = {
        one["id"]: one["layers"] for one in project["tool"]["importlinter"]["contracts"] if "layers" in one
    }
    assert drawn["lifeguard"] == layers["engine"]
    if IS_STARTER:
        assert set(drawn["app"]) == {name.strip("()") for name in layers["service"]}


@every_document
def test_commands_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"^([\w.-]+):", "".join(path.read_text() for path in MAKEFILES), re.MULTILINE)
    assert set(re.findall(r"`(?:[A-Z_]+=\S+ )*make ([\w.-]+)", text)) <= set(targets)
    group = typer.main.get_command(cli)
    assert isinstance(group, typer.core.TyperGroup)
    assert set(re.findall(r"python -m app (\w+)", text)) <= set(group.commands)
    for module in re.findall(r"python -m (bench[\w.]*\w)", text):
        assert find_spec(module), module


@every_document
def test_variables_exist(document: Path) -> None:
    prefixes = "POOL|DRAIN|BREAKER|DATABASE|LOG|READYZ|STATEMENT|LOCK|COMMAND"
    found = re.findall(rf"\b(?:{prefixes})_[A-Z_]+\b", document.read_text(encoding="utf-8"))
    known = {name.upper() for name in Settings.model_fields}
    assert {name.removesuffix("_FILE") if name not in known else name for name in found} <= known


def test_references_are_what_the_code_says() -> None:
    """`make generated` writes them anew."""
    assert not stale()


async def test_metrics_are_all_documented_and_all_exported(database_url: str) -> None:
    """Also those of a service at work, which the reference is not made from."""
    async with service(settings_for(database_url, database_replica_url=database_url)) as running:
        exported = re.findall(r"^# TYPE (\w+)", (await running.client.get("/metrics")).text, re.MULTILINE)
    documented = first_cells(METRICS.read_text(encoding="utf-8"))
    undocumented = {
        name for name in exported if not any(fnmatchcase(name, pattern) for pattern in documented)
    }
    assert not undocumented
    assert {name for name in documented if "*" not in name} <= set(exported)


def test_an_event_without_a_meaning_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text('log.warning("work_lost", rows=1)\n', encoding="utf-8")
    written = list(events.written(tmp_path))
    assert written == [("work_lost", "warning", ("rows",))]
    events.check(written, {"work_lost": ("info, warning", "It is gone.")})
    for meanings in ({}, {"work_lost": ("info", "")}, {"work_lost": ("warning", ""), "other": ("info", "")}):
        with pytest.raises(events.Undescribed):
            events.check(written, meanings)


def test_every_page_is_in_the_index() -> None:
    listed = re.findall(r"\]\(([^)#]+)\)", INDEX.read_text(encoding="utf-8"))
    shown = {(INDEX.parent / link).resolve() for link in listed}
    folders = {page.parent for page in shown if page.name == "README.md" and page.parent != ROOT}
    pages = {page for page in DOCUMENTS if page.is_relative_to(INDEX.parent) and page != INDEX}
    assert not {page for page in pages - shown if page.parent not in folders}


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_settings_of_the_pool_are_documented_with_their_defaults() -> None:
    section = table(POOL.read_text(encoding="utf-8"), "## Settings")
    rows = {
        row[0].strip(" `"): row[1].strip(" `")
        for row in (line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `"))
    }
    known = {field.name: field.default for field in fields(PoolConfig)}
    assert rows.keys() - {"on_event"} == known.keys()
    for name, default in known.items():
        if default is not None:
            expected = f'"{default}"' if isinstance(default, str) else f"{default:g}"
            assert rows[name] == expected, name


def test_statistics_of_the_pool_are_documented() -> None:
    section = table(POOL.read_text(encoding="utf-8"), "## Statistics")
    assert {field.name for field in fields(PoolStats)} <= first_cells(section)


def test_figures_are_those_of_the_last_benchmark() -> None:
    """`python -m bench.readme` brings them up to date."""
    for page, blocks in readme.PAGES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        assert all(mark in text for name in blocks for mark in readme.markers(name))
        assert readme.with_figures(text, blocks) == text


def test_every_question_of_the_benchmarks_is_described_and_answered() -> None:
    text = (ROOT / "bench/README.md").read_text(encoding="utf-8")
    questions = {path.parent.name for path in (ROOT / "bench").glob("*/__main__.py")}
    assert questions == set(re.findall(r"^\|.*`python -m bench\.(\w+)` \|", text, re.MULTILINE))
    assert questions == set(re.findall(r"^## `bench\.(\w+)`$", text, re.MULTILINE))
    assert questions == {path.stem for path in (ROOT / "bench/results").glob("*.json")}
    assert questions == set(tables.QUESTIONS), "in the report"


def test_faults_of_connecting_are_documented() -> None:
    section = table(POOL.read_text(encoding="utf-8"), "## When no connection can be made")
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    documented = {row[1].strip(" `"): row[2].strip() == "yes" for row in rows if "fault" not in row[1]}
    assert documented == {fault.name: fault.permanent for fault in FAULTS}


def test_the_doctor_s_checks_are_each_explained() -> None:
    headings = re.findall(r"^### (\w+)$", DOCTOR.read_text(encoding="utf-8"), re.MULTILINE)
    of_no_server = ["settings", "operators", "hosts"]
    assert headings == [*of_no_server, *(check.name for check in CHECKS), "session"]
