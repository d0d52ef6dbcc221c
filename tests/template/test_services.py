"""What a service that is made of this checkout has, and what not, before anything of it runs."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from itertools import compress, product
from pathlib import Path
from typing import Any

import pytest
import yaml

from template.make import SOURCE, Answers, made_of
from template.words import ServiceName, ServiceNameRefused

PARTS = ("kubernetes", "pgbouncer", "replica", "traces")
ENGINES = re.compile(
    r"(?:from|import) lifeguard|lifeguard-pg|(?:packages|src|site-packages)/lifeguard|the engine, lifeguard"
    r"|lifeguard\.(?:commands|database|development|lean|observability|operations|pool|protection|server|service|settings"
    r"|testing|web)\b"
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def service(
    name: str = "my-shop", feature: str = "parcels", engine: str = "vendored", without: str = ""
) -> dict[str, str]:
    """The owner's files, by their paths."""
    said: dict[str, object] = {"name": name, "feature": feature, "singular": "", "engine": engine}
    said |= {part: part not in without.split() for part in PARTS}
    made = made_of(SOURCE, Answers.of(said))
    return {path: text for path, text in made.items() if not path.startswith(("packages/", "wheels/"))}


def test_no_word_of_the_ledger_is_left() -> None:
    ledgers = re.compile(r"(?i)ledger|/accounts|\baccounts, transfers|\btransfers\b")
    found = [
        (path, line) for path, text in service().items() for line in text.splitlines() if ledgers.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("feature", ["parcels", "ledger"])
def test_the_old_name_is_left_only_where_it_is_the_engines(feature: str) -> None:
    files = {path: text for path, text in service(feature=feature).items() if not path.startswith("LICENSE")}
    project = tomllib.loads(files.pop("pyproject.toml"))
    assert project["project"]["name"] == "my-shop"
    found = [
        (path, line)
        for path, text in files.items()
        for line in text.splitlines()
        if "lifeguard" in ENGINES.sub("", line.lower())
    ]
    assert found == []


def test_the_ledger_is_kept_for_who_wants_it() -> None:
    files = service(feature="ledger")
    assert {
        "app/ledger/router.py",
        "tests/ledger/test_transfers.py",
        "migrations/versions/0001_ledger.py",
    } <= files.keys()
    assert files["app/ledger/router.py"] == (SOURCE / "app/ledger/router.py").read_text()
    assert "/my_shop?sslmode" in files["docker-compose.yml"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (".env.example", "#SERVICE_NAME=my-shop"),
        ("app/settings.py", '"service_name": "my-shop"'),
        ("docker-compose.yml", "image: ${MY_SHOP_IMAGE:-my-shop:dev}"),
        ("docker-compose.yml", "POSTGRES_DB: my_shop"),
        ("deploy/kubernetes/base/kustomization.yaml", "namespace: my-shop"),
        ("deploy/kubernetes/overlays/production/server.yaml", 'my-shop/max-connections: "200"'),
        ("deploy/prometheus/rules/service.yml", "- alert: MyShopPoolStuck"),
        ("deploy/prometheus/rules/service.yml", "runbook_url: docs/runbooks.md#myshoppoolstuck"),
        ("deploy/prometheus/rules/service.yml", "- record: my_shop:pool_utilisation:ratio"),
        ("deploy/prometheus/rules/service.yml", "- name: my-shop.pool"),
        ("deploy/prometheus/prometheus.yml", "job_name: my-shop"),
        ("deploy/grafana/dashboards/service.json", '"title": "My shop"'),
        ("docs/runbooks.md", "MyShopPoolStuck"),
        ("tests/deploy/test_alerts.py", r"^## (MyShop\w+)$"),
        ("requirements.lock", "#   my-shop (pyproject.toml)"),
        ("Dockerfile", 'image.title="My shop"'),
    ],
)
def test_it_is_called_as_its_owner_says(path: str, said: str) -> None:
    assert said in service()[path]


def test_it_has_the_pages_for_who_builds_on_it_and_the_recipes_stay_in_the_starter() -> None:
    files = service()
    assert {"docs/lanes.md", "docs/development.md", "docs/testing.md", ".vscode/launch.json"} <= files.keys()
    assert "`GET /v1/parcels/{parcel_id}` a third" in files["docs/lanes.md"]
    assert not [path for path in files if "cookbook" in path]
    assert [path for path, text in files.items() if "cookbook" in text] == ["docs/index.md"]
    locked = files["requirements-dev.lock"]
    assert not re.search(r"^(?:joserfc|cryptography|matplotlib)==", locked, re.MULTILINE)
    assert re.search(r"^copier==", locked, re.MULTILINE)


@pytest.mark.parametrize("without", ["", "kubernetes pgbouncer replica traces"])
def test_its_index_leads_to_all_its_pages_and_they_are_those_that_its_commands_name(without: str) -> None:
    files = service(without=without)
    pages = {path for path in files if re.fullmatch(r"docs/[a-z-]+\.md", path)} - {"docs/index.md"}
    assert pages == {f"docs/{page}" for page in re.findall(r"\]\(([a-z-]+\.md)\)", files["docs/index.md"])}
    assert set(re.findall(r"docs/[a-z-]+\.md", files["docs/reference/commands.md"])) <= pages
    assert "the folder `packages/lifeguard/src/lifeguard/web/plans`" in files["docs/plans.md"]


def test_its_feature_is_mounted_alone() -> None:
    files = service()
    assert [line for line in files["app/main.py"].splitlines() if "parcels" in line] == [
        "from app import parcels",
        "    service.include_router(parcels.router)",
    ]
    assert '"main", "(parcels)", "settings"' in files["pyproject.toml"]
    assert [path for path in files if path.startswith("migrations/versions/")] == [
        "migrations/versions/0001_parcels.py"
    ]


@pytest.mark.parametrize(
    ("without", "feature", "engine"),
    [
        ("", "ledger", "vendored"),
        ("", "parcels", "pinned"),
        *((" ".join(compress(PARTS, choice)), "parcels", "vendored") for choice in product((0, 1), repeat=4)),
    ],
)
def test_with_every_answer_its_files_are_whole(without: str, feature: str, engine: str) -> None:
    files = service(feature=feature, engine=engine, without=without)
    for path, text in files.items():
        if path.endswith(".py"):
            ast.parse(text)
        elif path.endswith(".toml"):
            tomllib.loads(text)
        elif path.endswith(".json"):
            json.loads(text)
        elif path.endswith((".yml", ".yaml")) and "kubernetes" not in path:
            yaml.safe_load(text)
    compose: Mapping[str, Any] = yaml.safe_load(files["docker-compose.yml"])
    has = {"replica", "pgbouncer"} - set(without.split())
    assert {"replica", "pgbouncer"} & compose["services"].keys() == has
    assert any(path.startswith("deploy/kubernetes/") for path in files) == ("kubernetes" not in without)
    assert ("traces" in files["app/main.py"]) == ("traces" not in without)
    assert "template/" not in {f"{path.partition('/')[0]}/" for path in files}


@pytest.mark.parametrize("without", ["", "kubernetes pgbouncer replica"])
def test_links_of_its_documents_lead_somewhere(without: str) -> None:
    files = service(without=without) | {
        "packages/lifeguard/CHANGELOG.md": "",
        "packages/lifeguard/README.md": "",
    }
    for path in (path for path in files if path.endswith(".md")):
        for link in LINK.findall(files[path]):
            target = link.partition("#")[0]
            where = (Path("/") / Path(path).parent / target).resolve().relative_to("/").as_posix()
            there = (
                where in files
                or where.startswith("packages/")
                or any(f.startswith(f"{where}/") for f in files)
            )
            assert "://" in link or not target or there, (path, link)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Shop",
        "9shop",
        "my_shop",
        "my-",
        "-my",
        "x" * 31,
        "class",
        "json",
        "lifeguard",
        "app",
        "tests",
        "a b",
        "a;b",
    ],
)
def test_what_is_no_name_of_a_service_is_refused(name: str) -> None:
    with pytest.raises(ServiceNameRefused):
        ServiceName.of(name)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["NAME=", "DIR=x"], "what is it called?"),
        (["NAME=shop", "DIR="], "where?"),
        (["NAME=shop", "DIR={full}"], "is not empty"),
        (["NAME=shop", "DIR={full}/file"], "is a file"),
        (["NAME=shop", "DIR=sub/folder"], "is inside of the starter"),
        (["NAME=shop", "DIR={new}", "FEATURE=order"], "SINGULAR="),
        (["NAME=shop", "DIR={new}", "ENGINE=none"], "vendored"),
        (["NAME=shop", "DIR={new}", "REPLICA=perhaps"], "yes or no"),
        (["NAME=tests", "DIR={new}"], "take another"),
    ],
)
def test_what_cannot_be_made_is_a_line_and_nothing_is_written(
    given: list[str], said: str, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    arguments = [one.format(full=full, new=tmp_path / "new") for one in given]
    done = subprocess.run(
        [sys.executable, "-m", "template.new", *arguments],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
