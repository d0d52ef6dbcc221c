"""`docker-compose.released.yml`, which compose reads after a release, and how a change goes on and back.

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
        scripts = ("release.bash", "replicas.bash", "down", "rolling-update", "scale")
        for name in (
            "docker-compose.yml",
            "deploy/haproxy/haproxy.cfg",
            *(f"deploy/{name}" for name in scripts),
        ):
            (directory / name).write_text((ROOT / name).read_text())
        docker = directory / "bin/docker"
        docker.parent.mkdir()
        docker.write_text("#!/bin/sh\n")
        docker.chmod(0o755)

    def run(self, commands: str, **variables: str) -> str:
        """Source the scripts' library and run that."""
        ran = self.end("-c", f". deploy/release.bash\n{commands}", **variables)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def end(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run bash with that, however it ends."""
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("COMPOSE_")}
        path = f"{self.directory}/bin:{os.environ['PATH']}"
        environment = {**inherited, **variables, "PATH": path}
        # What a shell has put into the background ignores SIGINT, and bash cannot trap what was ignored.
        command = ["env", "--default-signal=INT", "bash", *arguments]
        return subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )

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


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("deploy/scale 3", 1, "HAProxy does not run; docker compose up starts everything\n"),
        ("deploy/down", 0, ""),
    ],
)
def test_a_release_that_was_broken_off_is_over_when_nobody_is_served(
    checkout: Checkout, script: str, code: int, said: str
) -> None:
    """Else compose would refuse to start anything, and so would the scripts."""
    wanted = checkout.rendered(STATE)
    checkout.run("put_under_way released.yml")
    ended = checkout.end(*script.split())
    assert (ended.returncode, ended.stderr) == (code, said)
    released = yaml.safe_load((checkout.directory / "docker-compose.released.yml").read_text())
    assert released["services"] == wanted["services"]


def test_nobody_takes_everything_down_while_a_script_is_at_work(checkout: Checkout) -> None:
    ended = checkout.end("-c", ". deploy/release.bash\nlock\nbash deploy/down")
    assert ended.returncode == 1
    assert ended.stderr.startswith("another of these scripts is at work, process ")


def test_an_image_without_a_name_is_none(checkout: Checkout) -> None:
    ended = checkout.end("deploy/rolling-update", "")
    assert ended.returncode == 2
    assert "deploy/rolling-update IMAGE" in ended.stdout


ROLL = """
replicas() { case $1 in '!'*) ;; *) cat running ;; esac; }
bury_dead() { :; }
is_ready() { [ "$1" != "$HUNG" ]; }
ask() { [ "$1" = "$HUNG" ] || echo 200; }
start_one() { echo new >>running; started+=(new); }
stop_one() { sed -i "/^$1\\$/d" running; }
printf '%s\\n' $RUNNING >running
roll file one "$COUNT" || echo failed
xargs <running
"""


@pytest.mark.parametrize(
    ("running", "hung", "count", "left"),
    [
        ("a b", "", "3", "a b new"),
        ("a b", "b", "3", "a b new"),  # it hung before, and is nobody's fault here
        ("a b c", "b", "2", "a c"),  # who does not serve goes first
        ("a b", "new", "3", "failed a b new"),
    ],
)
def test_only_what_a_change_has_started_must_go_on_serving(
    checkout: Checkout, running: str, hung: str, count: str, left: str
) -> None:
    assert checkout.run(ROLL, RUNNING=running, HUNG=hung, COUNT=count).split() == left.split()


def test_a_replica_that_drains_when_the_change_is_broken_off_is_not_counted_on(checkout: Checkout) -> None:
    ended = checkout.end(
        "-c",
        """. deploy/release.bash
        docker() {
          echo "docker $1 ${*: -1}"
          [ "$1" != stop ] || [ -e interrupted ] || { touch interrupted; kill -INT $$; }
        } >>calls
        roll() { echo "roll $1" >>calls; }
        put_back() { :; }
        read_state() { state=([LIFEGUARD_RELEASE]=one [LIFEGUARD_REPLICAS]=2); }
        variable_of() { :; }
        at_work=yes
        trap undo EXIT
        trap 'exit 130' INT
        stop_one old""",
    )
    assert ended.returncode == 130
    calls = (checkout.directory / "calls").read_text().splitlines()
    assert calls == ["docker stop old", "docker stop old", "docker rm old", "roll deploy/state/before.yml"]


def test_a_way_back_that_cannot_be_written_down_says_so(checkout: Checkout) -> None:
    (checkout.directory / "docker-compose.released.yml.new").symlink_to("/dev/full")
    checkout.rendered({**STATE, "LIFEGUARD_REPLICAS": "2"})
    ended = checkout.end(
        "-c",
        """. deploy/release.bash
        mkdir -p deploy/state
        cp released.yml "$BEFORE"
        roll() { :; }
        at_work=yes
        trap undo EXIT
        exit 1""",
    )
    assert ended.returncode == 1
    assert "docker-compose.released.yml cannot be written" in ended.stderr


def test_the_last_lines_of_a_replica_are_not_those_of_its_checks(checkout: Checkout) -> None:
    log = (
        """docker() { echo why; for _ in $(seq 50); do echo '{"method": "GET", "path": "/readyz"}'; done; }"""
    )
    assert checkout.run(f"{log}\nlast_lines one") == "why\n"
