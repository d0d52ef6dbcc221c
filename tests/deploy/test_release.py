"""`docker-compose.released.yml`, which compose reads after a release: nothing in it is left open.

What the scripts do with containers is tried by `make end-to-end`.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PRODUCTION = Settings(app_env="production", database_url="postgresql://db/ledger")  # type: ignore[arg-type]  # as the environment gives it
ODD = {
    "LOG_LEVEL": "on",
    "OTEL_RESOURCE_ATTRIBUTES": "a='1',b=\"$2\" # ${LIFEGUARD_IMAGE} \\n: x",
    "POOL_MAX_SIZE": "7",
    "DATABASE_URL": "postgresql://app@pgbouncer:6432/ledger?sslmode=disable&x=%24",
}


class Checkout:
    """A copy of what the scripts need, and a Docker that only says yes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "deploy/haproxy").mkdir(parents=True)
        libraries = ("deploy/release.bash", "deploy/replicas.bash")
        for name in ("docker-compose.yml", "deploy/haproxy/haproxy.cfg", *libraries):
            (directory / name).write_text((ROOT / name).read_text())
        docker = directory / "bin/docker"
        docker.parent.mkdir()
        docker.write_text("#!/bin/sh\n")
        docker.chmod(0o755)

    def run(self, commands: str, **variables: str) -> str:
        """Source the scripts' library and run that."""
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("COMPOSE_")}
        path = f"{self.directory}/bin:{os.environ['PATH']}"
        command = ["bash", "-c", f". deploy/release.bash\n{commands}"]
        environment = {**inherited, **variables, "PATH": path}
        return subprocess.run(
            command, cwd=self.directory, env=environment, check=True, capture_output=True, text=True
        ).stdout

    def rendered(self, state: dict[str, str], **variables: str) -> dict[str, Any]:
        (self.directory / "state").write_text(
            "".join(f"#: {name}={value}\n" for name, value in state.items())
        )
        said = self.run("read_state state\nwrite_state released.yml\necho ${LIFEGUARD_IMAGE:-}", **variables)
        assert said == f"{variables.get('LIFEGUARD_IMAGE', '')}\n"  # what the shell says is still known
        read: dict[str, Any] = yaml.safe_load((self.directory / "released.yml").read_text())
        return read


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


STATE = {"LIFEGUARD_IMAGE": "lifeguard:1", "LIFEGUARD_ROLE": "app", "LIFEGUARD_RELEASE": "one"}


def defaults(text: str) -> str:
    """Compose fills in after it has read: in an environment, what it fills in is text, `off` as well."""
    text = re.sub(r"^( +[A-Z_0-9]+: )(\$\{LIFEGUARD_\w+(?::-[^}]*)?\})", r"\1'\2'", text, flags=re.MULTILINE)
    return re.sub(r"\$\{LIFEGUARD_\w+(?::-([^}]*))?\}", lambda found: found[1] or "", text)


def test_says_what_docker_compose_yml_says_and_leaves_nothing_open(checkout: Checkout) -> None:
    released = checkout.rendered(STATE, LIFEGUARD_ADDRESS="0.0.0.0:1", LIFEGUARD_IMAGE="of:the-shell")
    text = (checkout.directory / "released.yml").read_text()
    assert "${LIFEGUARD" not in text
    wanted = yaml.safe_load(defaults((ROOT / "docker-compose.yml").read_text()))
    for service in ("app", "migrate"):
        del wanted["services"][service]["build"]
        wanted["services"][service]["image"] = "lifeguard:1"
    del wanted["x-service"], released["x-service"]
    wanted["services"]["app"]["labels"]["lifeguard.release"] = "one"
    wanted["services"]["haproxy"]["ports"] = [
        "0.0.0.0:1:8000"
    ]  # the shell says so; it is not of this release
    assert released == wanted


def test_variables_arrive_as_they_were_given(checkout: Checkout) -> None:
    environment = checkout.rendered({**STATE, **ODD})["services"]["app"]["environment"]
    assert {name: environment[name].replace("$$", "$") for name in ODD} == ODD
    assert "$" not in environment["OTEL_RESOURCE_ATTRIBUTES"].replace("$$", "")
    assert environment["POOL_INSTANCES"] == COMPOSE["services"]["app"]["environment"]["POOL_INSTANCES"]


@pytest.mark.parametrize("given", [{}, ODD])
def test_the_service_logs_in_as_the_role_that_has_been_put_in_place(
    checkout: Checkout, given: dict[str, str]
) -> None:
    state = {**STATE, **given, "LIFEGUARD_ROLE": "app_b"}
    environment = checkout.rendered(state)["services"]["app"]["environment"]
    assert environment["DATABASE_URL"].startswith("postgresql://app_b@")
    assert environment["DATABASE_PASSWORD_FILE"] == "/run/secrets/app_b_password"


def test_what_the_shell_says_of_the_surroundings_is_kept(checkout: Checkout) -> None:
    compose = checkout.directory / "docker-compose.yml"
    text = compose.read_text()
    added = "  other:\n    image: x\n    environment:\n      WORD: ${LIFEGUARD_WORD:-off} # a word\n"
    compose.write_text(text.replace("services:\n", f"services:\n{added}", 1))
    assert checkout.rendered(STATE)["services"]["other"]["environment"] == {"WORD": "off"}
    (checkout.directory / ".env").write_text("LIFEGUARD_WORD='on'\nLIFEGUARD_ADDRESS=127.0.0.1:1\n")
    commands = "read_state state\nlook_around\nwrite_state kept.yml"
    checkout.run(commands, LIFEGUARD_ADDRESS="127.0.0.1:2")
    (checkout.directory / ".env").unlink()
    checkout.run("read_state kept.yml\nlook_around\nwrite_state kept.yml")
    kept = yaml.safe_load((checkout.directory / "kept.yml").read_text())["services"]
    assert kept["other"]["environment"] == {"WORD": "on"}
    assert kept["haproxy"]["ports"] == ["127.0.0.1:2:8000"]


def test_is_made_again_from_what_it_says(checkout: Checkout) -> None:
    once = checkout.rendered({**STATE, **ODD})
    checkout.run("read_state released.yml\nwrite_state again.yml")
    assert yaml.safe_load((checkout.directory / "again.yml").read_text()) == once


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "COMPOSE_FILE=docker-compose.released.yml\n"),
        ("LOG_LEVEL=debug\n", "LOG_LEVEL=debug\nCOMPOSE_FILE=docker-compose.released.yml\n"),
        ("COMPOSE_FILE=docker-compose.yml:x.yml\n", "COMPOSE_FILE=docker-compose.released.yml:x.yml\n"),
        (
            "COMPOSE_FILE=docker-compose.released.yml\nA=1\n",
            "COMPOSE_FILE=docker-compose.released.yml\nA=1\n",
        ),
    ],
)
def test_is_what_compose_reads(checkout: Checkout, before: str | None, after: str) -> None:
    dotenv = checkout.directory / ".env"
    if before is not None:
        dotenv.write_text(before)
    checkout.run("name_in_dotenv")
    assert dotenv.read_text() == after


@pytest.mark.parametrize(
    ("delay", "timeout", "seconds"),
    [("", "", "30"), ("0.5", "", "26"), ("5", "60.25", "71"), ("0", "1", "6")],
)
def test_a_replica_is_given_the_time_that_it_says_it_takes(
    checkout: Checkout, delay: str, timeout: str, seconds: str
) -> None:
    assert checkout.run(f"grace '{delay}' '{timeout}'") == f"{seconds}\n"
    assert PRODUCTION.drain_delay + PRODUCTION.drain_timeout + 5 == 30


def test_compose_refuses_it_while_a_release_is_under_way(checkout: Checkout) -> None:
    """With replicas of two releases, compose would recreate all of them at once."""
    checkout.rendered(STATE)
    checkout.run("put_under_way released.yml")
    released = (checkout.directory / "docker-compose.released.yml").read_text()
    images = [service["image"] for service in yaml.safe_load(released)["services"].values()]
    assert sum("${LIFEGUARD_UNDER_WAY:?a release is under way" in image for image in images) == 2
    assert sum("$" in image for image in images) == 2
