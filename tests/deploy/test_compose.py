"""What `docker compose up` relies on and nothing else would notice: that files written apart agree."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lifeguard.database.connect_options import session_limits

from app.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
HAPROXY = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
OURS = ("app", "migrate")
PRODUCTION = Settings(app_env="production", database_url="postgresql://db/ledger")  # type: ignore[arg-type]  # as the environment gives it

every_service = pytest.mark.parametrize("name", SERVICES)


@every_service
def test_is_contained(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()


@every_service
def test_stays_and_says_how_it_is_or_ends(name: str) -> None:
    service = SERVICES[name]
    one_shot = {"condition": "service_completed_successfully"}
    awaited = any(other.get("depends_on", {}).get(name) == one_shot for other in SERVICES.values())
    stays = service.get("restart") == "unless-stopped" and "test" in service["healthcheck"]
    assert awaited != stays


@every_service
def test_is_published_on_this_machine_alone(name: str) -> None:
    for published in SERVICES[name].get("ports", []):
        assert published.startswith(("127.0.0.1:", "${LIFEGUARD_ADDRESS:-127.0.0.1:"))


def test_the_database_has_no_way_out() -> None:
    assert COMPOSE["networks"]["database"] == {"internal": True}
    for name in {"postgres", "replica", "replica-2", "pgbouncer", "migrate"} & SERVICES.keys():
        assert SERVICES[name]["networks"] == ["database"]


@pytest.mark.parametrize("name", OURS)
def test_variables_are_those_of_the_service(name: str) -> None:
    assert set(SERVICES[name]["environment"]) <= {field.upper() for field in Settings.model_fields}


def test_pools_are_sized_for_every_place_behind_haproxy() -> None:
    places = re.search(r"server-template app (\d+) app:8000", HAPROXY)
    assert places
    assert int(places[1]) == SERVICES["app"]["environment"]["POOL_INSTANCES"]


def test_haproxy_prometheus_and_the_probe_ask_the_operators_port() -> None:
    port = SERVICES["app"]["environment"]["OPS_PORT"]
    assert port != PRODUCTION.port
    assert re.search(rf"app:{PRODUCTION.port} check port {port} ", HAPROXY)
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (job,) = (job for job in prometheus["scrape_configs"] if job["job_name"] == "lifeguard")
    assert job["dns_sd_configs"][0]["port"] == port
    assert "ports" not in SERVICES["app"]
    probe = (ROOT / "deploy/probe.py").read_text()
    assert probe.index('"OPS_PORT"') < probe.index('"PORT"')


def test_one_client_cannot_have_all_connections() -> None:
    (all_of_them,) = re.findall(r"frontend public.*?maxconn (\d+)", HAPROXY, re.DOTALL)
    (one,) = re.findall(r"presetenv CLIENT_CONNECTIONS (\d+)", HAPROXY)
    assert int(one) * 3 < int(all_of_them)
    assert f":-{one}}}" in SERVICES["haproxy"]["environment"]["CLIENT_CONNECTIONS"]


def test_a_worker_that_was_replaced_lives_longer_than_an_idle_connection() -> None:
    (life,) = re.findall(r"hard-stop-after (\d+)s", HAPROXY)
    (idle,) = re.findall(r"timeout http-keep-alive (\d+)s", HAPROXY)
    assert int(life) > int(idle)


def test_a_replica_serves_until_haproxy_has_noticed_that_it_drains() -> None:
    interval, failures = re.findall(r"check port \d+ inter (\d+)ms fall (\d+)", HAPROXY)[0]
    check_timeout = re.search(r"timeout check (\d+)s", HAPROXY)
    assert check_timeout
    assert int(interval) / 1000 * int(failures) + int(check_timeout[1]) < PRODUCTION.drain_delay


def test_a_replica_is_given_the_time_to_drain() -> None:
    grace = re.fullmatch(r"\$\{LIFEGUARD_GRACE:-(\d+)s\}", SERVICES["app"]["stop_grace_period"])
    assert grace
    assert int(grace[1]) >= PRODUCTION.drain_delay + PRODUCTION.drain_timeout + 5


@pytest.mark.skipif("pgbouncer" not in SERVICES, reason="this service has no PgBouncer")
def test_pgbouncer_lets_every_limit_of_the_service_pass() -> None:
    text = (ROOT / "deploy/pgbouncer/pgbouncer.ini").read_text()
    ignored = re.search(r"^ignore_startup_parameters = (.*)$", text, re.MULTILINE)
    assert ignored
    drivers = {"extra_float_digits", "options"}
    assert set(ignored[1].split(", ")) == set(session_limits(PRODUCTION)) | drivers
