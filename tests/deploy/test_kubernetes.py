"""The manifests and the service belong together. What needs kubectl and others is `make check-deploy`."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lifeguard.pool import pool_metrics

from deploy.kubernetes import proofs
from deploy.kubernetes.rendered import Document, Rendered, container_of, everything_named, pod_of

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy/kubernetes"
PGBOUNCER = MANIFESTS / "components/pgbouncer"
OVERLAYS = ("development", "production")

Change = Callable[[Rendered], None]


def documents(path: Path) -> list[Document]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def variables(name: str, *folders: Path) -> Document:
    lines = [line for folder in folders for line in (folder / f"{name}.env").read_text().splitlines()]
    data = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    return {"kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def plain(overlay: str) -> Rendered:
    """What kustomize would make of an overlay, as far as these tests look at it."""
    base, folder = MANIFESTS / "base", MANIFESTS / "overlays" / overlay
    files = [
        path for path in (*base.glob("*.yaml"), *folder.glob("*.yaml")) if path.name != "kustomization.yaml"
    ]
    found = [one for path in files if path.name != "server.yaml" for one in documents(path) if "kind" in one]
    rendered = Rendered(
        overlay, "", [*found, variables("service", base, folder), variables("migrate", base, folder)]
    )
    (server,) = documents(folder / "server.yaml")
    rendered.get("Deployment", "lifeguard")["metadata"]["annotations"] |= server["metadata"]["annotations"]
    return rendered


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_belongs_to_this_service(overlay: str) -> None:
    rendered = plain(overlay)
    for proof in set(proofs.PROOFS) - {
        proofs.references,
        proofs.secrets,
    }:  # kustomize makes what is referred to
        assert list(proof(rendered)) == [], proof.__name__


def variable(name: str, value: str) -> Change:
    return lambda rendered: rendered.get("ConfigMap", "service")["data"].update({name: value})


def in_container(**changes: object) -> Change:
    return lambda rendered: container_of(rendered.get("Deployment", "lifeguard")).update(changes)


def in_pod(**changes: object) -> Change:
    return lambda rendered: pod_of(rendered.get("Deployment", "lifeguard"))["spec"].update(changes)


def in_spec(kind: str, **changes: object) -> Change:
    return lambda rendered: rendered.get(kind, "lifeguard")["spec"].update(changes)


def without(name: str) -> Change:
    def remove(rendered: Rendered) -> None:
        del rendered.get("ConfigMap", "service")["data"][name]

    return remove


def in_policy(name: str, port: str) -> Change:
    def allow(rendered: Rendered) -> None:
        rendered.get("NetworkPolicy", name)["spec"]["ingress"][0]["ports"].append({"port": port})

    return allow


WRONG = (
    (variable("POOL_INSTANCES", "9"), "POOL_INSTANCES=9: there may be 9 replicas and 1 more"),
    (in_spec("HorizontalPodAutoscaler", maxReplicas=10), "POOL_INSTANCES=10: there may be 10 replicas"),
    (variable("POOL_MAX_SIZE", "14"), "but the server has 197"),
    (variable("POOL_MAX_SIZE", "15"), "the pools may take 76% of the server"),
    (variable("POOL_MAX_SIZE", "auto"), "POOL_MAX_SIZE=auto"),
    (in_spec("Deployment", minReadySeconds=4), "but the server has 197"),
    (variable("DRAIN_TIMEOUT", "30"), "the end takes 43 s"),
    (in_container(lifecycle={"preStop": {"sleep": {"seconds": 9}}}), "the end takes 37 s"),
    (variable("POOL_SIZE", "10"), "POOL_SIZE"),
    (variable("LOCK_TIMEOUT", "soon"), "LOCK_TIMEOUT"),
    (variable("LOCK_TIMEOUT", "60"), "LOCK_TIMEOUT=60: must not exceed STATEMENT_TIMEOUT=10"),
    (variable("DATABASE_URL", "mysql://app@postgres/ledger"), "DATABASE_URL"),
    (in_container(args=["server"]), "`python -m app server` does not exist"),
    (variable("PORT", "8080"), "PORT=8080 is not a port of the container"),
    (
        in_container(livenessProbe={"httpGet": {"path": "/health", "port": "http"}}),
        "/health is asked for",
    ),
    (in_container(livenessProbe={"httpGet": {"path": "/healthz", "port": "web"}}), "port web is asked"),
    (
        in_container(livenessProbe={"httpGet": {"path": "/healthz", "port": "http"}}),
        "port http is asked for /healthz, which is not served there",
    ),
    (variable("OPS_PORT", "8002"), "OPS_PORT=8002 is not a port of the container"),
    (without("OPS_PORT"), "OPS_PORT is not set: who may send requests can read /metrics"),
    (in_policy("requests", "operators"), "must have rules of their own"),
    (in_spec("Service", ports=[{"port": 80, "targetPort": "operators"}]), "publishes OPS_PORT"),
    (in_spec("PodDisruptionBudget", selector={"matchLabels": {"app": "lifeguard"}}), "selects nobody"),
    (in_spec("PodDisruptionBudget", maxUnavailable=0), "needs one PodDisruptionBudget"),
    (in_pod(topologySpreadConstraints=[]), "no topologySpreadConstraints of its own pods"),
    (in_pod(terminationGracePeriodSeconds=36), "terminationGracePeriodSeconds: 36 s; the end takes 33 s"),
    (in_pod(serviceAccountName="nobody"), "needs the ServiceAccount nobody"),
    (
        in_spec("HorizontalPodAutoscaler", scaleTargetRef={"kind": "Deployment", "name": "service"}),
        "scales Deployment service, which is not there",
    ),
)


@pytest.mark.parametrize(("change", "fault"), WRONG, ids=[fault for _, fault in WRONG])
def test_what_does_not_belong_together_is_found(change: Change, fault: str) -> None:
    rendered = plain("production")
    change(rendered)
    assert fault in "\n".join(proofs.faults(rendered))


def test_a_missing_secret_is_found() -> None:
    rendered = plain("production")
    sources = pod_of(rendered.get("Job", "migrate"))["spec"]["volumes"][0]["projected"]["sources"]
    sources[0]["secret"]["name"] = "hearsay"
    assert "Job migrate needs the Secret hearsay; docs/kubernetes.md does not name it" in proofs.faults(
        rendered
    )


@pytest.mark.skipif(not PGBOUNCER.exists(), reason="this service has no PgBouncer")
def test_a_pooler_that_is_killed_before_it_has_ended_is_found() -> None:
    rendered = plain("production")
    pgbouncer = next(one for one in documents(PGBOUNCER / "pgbouncer.yaml") if one["kind"] == "Deployment")
    with_pooler = Rendered(rendered.name, "", [*rendered.documents, pgbouncer])
    assert list(proofs.pooler_shutdown(with_pooler)) == []
    pod_of(pgbouncer)["spec"]["terminationGracePeriodSeconds"] = 36
    (fault,) = proofs.pooler_shutdown(with_pooler)
    assert "preStop takes 35 s of 36" in fault


def test_a_rule_that_the_charts_operator_would_not_take_is_found() -> None:
    labels: list[dict[str, str]] = [{"release": "kube-prometheus-stack"}, {}]
    both = [
        {"kind": kind, "metadata": {"name": "lifeguard", "labels": found}}
        for kind, found in zip(("PodMonitor", "PrometheusRule"), labels, strict=True)
    ]
    assert "is not the same for all" in "".join(proofs.taken_by_the_chart(Rendered("", "", both)))


def mounted_secrets() -> set[tuple[str, str]]:
    """Name and key of every Secret that a pod mounts or pulls with, patches included."""
    found: set[tuple[str, str]] = set()
    for path in MANIFESTS.rglob("*.yaml"):
        for document in documents(path):
            for secret in everything_named(document, "secret"):
                found |= {(secret["name"], item["key"]) for item in secret.get("items", ())}
    component = documents(MANIFESTS / "components/private-registry/kustomization.yaml")[0]
    account = yaml.safe_load(component["patches"][0]["patch"])
    return found | {(one["name"], ".dockerconfigjson") for one in account["imagePullSecrets"]}


def test_the_document_makes_the_secrets_that_are_mounted_key_by_key(tmp_path: Path) -> None:
    """Its commands are run, with a kubectl that writes down what it is asked to make."""
    for name, lines in {
        "kubectl": 'printf "%s\\n" "$*" >>"$CALLS"; [ "$3" != get ] || printf secret | base64',
        "openssl": "echo random",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    text = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    calls = tmp_path / "calls"
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "REGISTRY_PASSWORD": "secret",
    }
    for block in blocks:
        if "create secret" in block:
            subprocess.run(["bash", "-euc", block], check=True, env=environment)  # noqa: S607 - Bash
    made: set[tuple[str, str]] = set()
    for kind, name, options in re.findall(r"create secret (\S+) (\S+) (.*)", calls.read_text()):
        keys = re.findall(r"--from-(?:literal|file)=([^=]+)=", options)
        made |= {(name, key) for key in (keys if kind == "generic" else [".dockerconfigjson"])}
    assert mounted_secrets() - made == set()


def test_the_document_shows_the_sums_of_production() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    _, *sums = proofs.report(plain("production"))
    assert "\n".join(sums) in text


def objects() -> Iterator[Document]:
    """Every object of every file, and no kustomization, patch or chart value."""
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        yield from (one for one in documents(path) if "metadata" in one)


def test_each_check_that_is_skipped_has_a_reason() -> None:
    for document in objects():
        for annotations in everything_named(document, "annotations"):
            skips = [text for name, text in annotations.items() if name.startswith("checkov.io/")]
            assert all(text.partition("=")[2] for text in skips)


def test_each_component_is_in_an_example() -> None:
    used = [
        (path.parent / component).resolve()
        for path in MANIFESTS.glob("examples/*/kustomization.yaml")
        for component in documents(path)[0]["components"]
    ]
    assert {path.parent for path in MANIFESTS.glob("components/*/kustomization.yaml")} <= set(used)


def test_the_autoscaler_reads_a_metric_that_exists() -> None:
    autoscalers = (
        document
        for path in ("overlays/production/autoscaler.yaml", "components/fleet/autoscaler.yaml")
        for document in documents(MANIFESTS / path)
    )
    asked = {pods["metric"]["name"] for one in autoscalers for pods in everything_named(one, "pods")}
    (values,) = documents(MANIFESTS / "components/monitoring/prometheus-adapter.yaml")
    given = {one["name"]["as"]: one["seriesQuery"].partition("{")[0] for one in values["rules"]["custom"]}
    assert asked == set(given)
    (rules,) = documents(ROOT / "deploy/prometheus/rules/service.yml")
    metrics = {metric.name for _, metric in pool_metrics()}
    assert set(given.values()) <= {*everything_named(rules, "record"), *metrics}


def fleet(**changes: object) -> Rendered:
    """Production whose processes share the server by themselves, as far as it is about their number."""
    rendered = plain("production")
    rendered.get("ConfigMap", "service")["data"].update(
        variables("service", MANIFESTS / "components/fleet")["data"]
    )
    patches: Any
    (patches,) = documents(MANIFESTS / "components/fleet/autoscaler.yaml")  # a list, unlike an object
    largest = next(patch["value"] for patch in patches if patch["path"] == "/spec/maxReplicas")
    in_spec("HorizontalPodAutoscaler", maxReplicas=largest)(rendered)
    in_spec("HorizontalPodAutoscaler", **changes)(rendered)
    return rendered


def test_the_autoscaler_of_a_fleet_goes_as_far_as_the_server_does_and_no_further() -> None:
    assert list(proofs.connections(fleet())) == []
    largest = proofs.Service.of(fleet()).largest
    assert list(proofs.connections(fleet(maxReplicas=largest + 1))) == [
        "there may be 50 pods; of 147 sessions 49 have a seat and POOL_MIN_SIZE=2"
    ]


def test_a_fleet_behind_a_pooler_is_found() -> None:
    pgbouncer = {"kind": "Deployment", "metadata": {"name": "pgbouncer"}}
    rendered = Rendered("", "", [*fleet().documents, pgbouncer])
    assert "behind PgBouncer" in "".join(proofs.connections(rendered))


def test_a_drain_lasts_longer_than_a_scrape_interval() -> None:
    """Else nobody would see `app_draining`."""
    (monitor,) = documents(MANIFESTS / "components/monitoring/pod-monitor.yaml")
    interval = float(monitor["spec"]["podMetricsEndpoints"][0]["interval"].removesuffix("s"))
    assert interval < proofs.Service.of(plain("production")).settings.drain_delay


def test_compose_and_kubernetes_run_the_same_images() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    compose_images = {f"docker.io/{service.get('image')}" for service in compose["services"].values()}
    compose_images |= {image.replace("docker.io/", "docker.io/library/") for image in compose_images}
    ours = {image for document in objects() for image in everything_named(document, "image")}
    assert ours - {"lifeguard"} <= compose_images


def test_roles_have_the_same_limits_with_an_operator() -> None:
    (cluster,) = documents(MANIFESTS / "components/cloudnative-pg/cluster.yaml")
    initdb = cluster["spec"]["bootstrap"]["initdb"]
    assert not [one for one in initdb["postInitApplicationSQL"] if not one.startswith("CREATE ROLE")]
    (reference,) = initdb["postInitApplicationSQLRefs"]["configMapRefs"]
    (scripts,) = documents(ROOT / "deploy/postgres/kustomization.yaml")
    (generated,) = scripts["configMapGenerator"]
    assert reference["name"] == generated["name"]
    assert f"initdb.d/{reference['key']}" in generated["files"]
    grants = (ROOT / "deploy/postgres/initdb.d" / reference["key"]).read_text(encoding="utf-8")
    assert "ALTER ROLE app SET statement_timeout" in grants
    assert " app SET " not in (ROOT / "deploy/postgres/initdb.d/10-roles.sh").read_text(encoding="utf-8")


def test_roles_get_into_no_other_database_with_an_operator() -> None:
    (cluster,) = documents(MANIFESTS / "components/cloudnative-pg/cluster.yaml")
    allowed, rejected = (line.split() for line in cluster["spec"]["postgresql"]["pg_hba"])
    database = cluster["spec"]["bootstrap"]["initdb"]["database"]
    assert (allowed[1], allowed[2], allowed[-1]) == (database, "+app,+migrator", "scram-sha-256")
    assert rejected == ["host", "all", "+app,+migrator", "all", "reject"]
