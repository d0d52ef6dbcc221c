"""`deploy/secrets/generate`: each secret has one place, and what is in use is not changed by a start."""

import subprocess
from pathlib import Path

import pytest

GENERATE = (Path(__file__).parents[2] / "deploy/secrets/generate").read_text()
READERS = ("postgres", "replica", "migrate", "app", "pgbouncer", "grafana")
ALL = {
    *(f"{role}_password" for role in ("postgres", "migrator", "app", "replicator", "monitor", "grafana")),
    "ops_token",
}


class Volumes:
    """What the one-shot of compose has mounted."""

    def __init__(self, directory: Path) -> None:
        self.given, self.all, self.handed = directory / "given", directory / "all", directory / "secrets"
        for place in (self.given, self.all, *(self.handed / reader for reader in READERS)):
            place.mkdir(parents=True)
        script = GENERATE.replace("/given", str(self.given)).replace("/all/", f"{self.all}/")
        self.script = "chown() { :; }\n" + script.replace('"/secrets/', f'"{self.handed}/').replace(
            " /secrets/", f" {self.handed}/"
        )

    def generate(self, *order: str, stdin: str = "") -> str:
        """Give what it says. Raises CalledProcessError."""
        command = ["sh", "-c", self.script, "generate", *order]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
        return done.stderr

    def files(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.given.iterdir()}

    def app_has(self, name: str) -> str:
        return (self.handed / "app" / name).read_text()


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path)


def test_each_is_made_once_and_then_kept(volumes: Volumes) -> None:
    volumes.generate()
    made = volumes.files()
    assert made.keys() == ALL
    assert len(set(made.values())) == len(ALL)
    volumes.generate()
    assert volumes.files() == made
    assert volumes.app_has("app_password") == made["app_password"]
    assert not (volumes.handed / "app/migrator_password").exists()


def test_a_start_does_not_change_what_is_in_use(volumes: Volumes) -> None:
    """As it did: after a rotation, with the file of before in the default directory."""
    volumes.generate()
    before = volumes.app_has("app_password")
    (volumes.given / "app_password").write_text("another\n")
    said = volumes.generate()
    assert volumes.app_has("app_password") == before
    assert "app_password: not what the file says is in use" in said
    (volumes.given / "app_password").unlink()
    volumes.generate()
    assert volumes.files()["app_password"] == before


def test_an_installation_of_before_keeps_its_passwords(volumes: Volumes) -> None:
    """It has them in a volume of their own, and in those of the services."""
    (volumes.all / "app_password").write_text("old")
    (volumes.all / "ops_token").write_text("old-token")
    (volumes.handed / "app/ops_token").write_text("given-token\n")
    volumes.generate()
    assert volumes.files()["app_password"] == volumes.app_has("app_password") == "old\n"
    assert volumes.files()["ops_token"] == volumes.app_has("ops_token") == "given-token\n"
    assert not list(volumes.all.iterdir())


@pytest.mark.parametrize("password", ["", "'\"\\ $HOME `id` one's own"])
def test_both_logins_are_accepted_until_one_is_dropped(volumes: Volumes, password: str) -> None:
    volumes.generate()
    old = volumes.app_has("app_password")
    volumes.generate("next", "app_b_password", stdin=password)
    assert (volumes.handed / "postgres/app_b_password.next").read_text() == (
        volumes.files()["app_b_password.next"]
    )
    volumes.generate("take", "app_b_password")
    new = volumes.app_has("app_b_password")
    assert new == volumes.files()["app_b_password"] != old == volumes.app_has("app_password")
    assert not password or new == f"{password}\n"
    users = (volumes.handed / "pgbouncer/userlist.txt").read_text().splitlines()
    assert users == [
        f'"{login}" "{text.strip().replace(chr(34), chr(34) * 2)}"'
        for login, text in (("app", old), ("app_b", new))
    ]
    volumes.generate("drop", "app_password")
    assert volumes.app_has("app_password") != old
    volumes.generate("drop", "app_b_password")
    assert not (volumes.handed / "app/app_b_password").exists()


def test_what_was_broken_off_goes_on_with_the_same_secret(volumes: Volumes) -> None:
    """The database may know it already."""
    volumes.generate()
    volumes.generate("next", "migrator_password")
    half_way = volumes.files()["migrator_password.next"]
    volumes.generate()
    volumes.generate("next", "migrator_password")
    volumes.generate("take", "migrator_password")
    assert volumes.files()["migrator_password"] == half_way


def test_what_was_taken_goes_back(volumes: Volumes) -> None:
    volumes.generate()
    before = volumes.app_has("ops_token")
    volumes.generate("next", "ops_token")
    volumes.generate("take", "ops_token")
    assert volumes.app_has("ops_token") != before
    volumes.generate("back", "ops_token")
    assert volumes.app_has("ops_token") == volumes.files()["ops_token"] == before
    assert volumes.files().keys() == ALL


@pytest.mark.parametrize("order", [("next", "../app_password"), ("take", "x"), ("other",)])
def test_nothing_else_is_touched(volumes: Volumes, order: tuple[str, ...]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        volumes.generate(*order)
    assert caught.value.returncode == 2
    assert not volumes.files()
