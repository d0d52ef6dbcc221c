"""What no schema knows: sums that must come out, and names that must exist in the service.

Each proof yields a line for everything that is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser, SectionProxy
from dataclasses import dataclass
from pathlib import Path

import typer
from lifeguard.operations import probes
from lifeguard.operations.operators import _LAST_ANSWERS
from lifeguard.server.process import _BACKSTOP
from lifeguard.service import LAST_SECONDS
from pydantic import ValidationError

from app.commands import cli
from app.settings import Settings
from deploy.kubernetes import fleet
from deploy.kubernetes.placement import disruptions
from deploy.kubernetes.rendered import (
    Document,
    Rendered,
    container_of,
    everything_named,
    full_name,
    pod_of,
    selects,
)

DOCUMENT = Path(__file__).parents[2] / "docs/kubernetes.md"

# Seconds of the grace period that nothing has a claim to: a slow node, a late signal.
SPARE = 5
# `python -m app migrate` works on one session, and asks on another what the first waits for.
MIGRATION = 2


@dataclass(frozen=True)
class Service:
    """The service in a rendering: its deployment, and its settings as the process will read them."""

    deployment: Document
    settings: Settings
    largest: int
    """Most replicas."""

    @classmethod
    def of(cls, rendered: Rendered) -> Service:
        """Raises LookupError and ValidationError."""
        deployment = rendered.get("Deployment", "lifeguard")
        autoscaler = rendered.find("HorizontalPodAutoscaler", "lifeguard")
        largest = autoscaler["spec"]["maxReplicas"] if autoscaler else deployment["spec"].get("replicas", 1)
        return cls(deployment, settings_of(rendered, deployment), largest)

    @property
    def surge(self) -> int:
        surge: int = self.deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        return surge

    @property
    def grace(self) -> int:
        grace: int = pod_of(self.deployment)["spec"]["terminationGracePeriodSeconds"]
        return grace

    @property
    def pool(self) -> int:
        if self.settings.pool_max_size == "auto":
            raise LookupError("POOL_MAX_SIZE=auto: it is the server that knows")
        return self.settings.pool_max_size

    def promised(self, annotation: str) -> int:
        """What the overlay says of the server."""
        return int(self.deployment["metadata"]["annotations"][f"lifeguard/{annotation}"])

    @property
    def available(self) -> int:
        """Sessions that the server has for ordinary users."""
        return self.promised("max-connections") - self.promised("reserved-connections")


def settings_of(rendered: Rendered, workload: Document) -> Settings:
    """What the process would make of its environment, with other secrets. Raises ValidationError."""
    values: dict[str, str | Path] = {}
    for name, value in rendered.variables(container_of(workload)).items():
        field = name.lower()
        if field in Settings.model_fields:
            values[field] = Path(__file__) if field.endswith("_file") else value  # any file that is there
        else:
            values[field.removesuffix("_file")] = "a secret that is long enough"
    return Settings.model_validate(values)


def rollout(deployment: Document, replicas: int) -> dict[str, int]:
    """Most pods of each kind that a rollout has at the same time.

    Kubernetes does not count those that are ending. One is told to end when the next one has been ready for
    minReadySeconds, and takes its grace period at most.
    """
    spec = deployment["spec"]
    surge = spec["strategy"]["rollingUpdate"]["maxSurge"]
    overlap = math.ceil(pod_of(deployment)["spec"]["terminationGracePeriodSeconds"] / spec["minReadySeconds"])
    return {"replicas": replicas, "surge": surge, "ending": overlap * surge}


def sessions(rendered: Rendered) -> dict[str, int]:
    """Who may hold how many sessions of the server at the same time."""
    service = Service.of(rendered)
    others = {"migration": MIGRATION, "others": service.promised("other-sessions")}
    if fleet.shares(service.settings):
        return {"fleet": fleet.budget_of(service.settings, service.available, sum(others.values()))} | others
    pods, each = rollout(service.deployment, service.largest), service.pool
    if pgbouncer := rendered.find("Deployment", "pgbouncer"):
        pods = rollout(pgbouncer, pgbouncer["spec"]["replicas"])
        bouncer = pgbouncer_settings(rendered)
        each = int(bouncer["default_pool_size"]) + int(bouncer["reserve_pool_size"])
    held = {kind: count * each for kind, count in pods.items()}
    return held | others


def connections(rendered: Rendered) -> Iterator[str]:
    """All sessions together stay within the server; POOL_INSTANCES is what it says, or `auto`."""
    service = Service.of(rendered)
    if fleet.shares(service.settings):
        pods = sum(rollout(service.deployment, service.largest).values())
        others = MIGRATION + service.promised("other-sessions")
        between = rendered.find("Deployment", "pgbouncer") is not None
        yield from fleet.faults(service.settings, service.available, others, pods, behind_pooler=between)
        return
    allowed = {service.largest + service.surge}
    if rendered.find("Deployment", "pgbouncer"):
        allowed.add(1)  # the pools may exceed the server then, and PgBouncer does not
    if service.settings.pool_instances not in allowed:
        yield (
            f"POOL_INSTANCES={service.settings.pool_instances}: there may be {service.largest} replicas"
            f" and {service.surge} more in a rollout"
        )
    demand = sessions(rendered)
    if sum(demand.values()) > service.available:
        yield f"{sum(demand.values())} sessions ({demand}), but the server has {service.available}"
    assert service.settings.pool_instances != "auto"
    share = service.settings.pool_instances * service.pool / service.available
    if share > service.settings.pool_headroom:
        yield f"the pools may take {share:.0%} of the server, more than POOL_HEADROOM: the service would warn"


def pooler(rendered: Rendered) -> Iterator[str]:
    """One PgBouncer alone has room for all pools, while the other is away."""
    if not rendered.find("Deployment", "pgbouncer"):
        return
    service = Service.of(rendered)
    clients = sum(rollout(service.deployment, service.largest).values()) * service.pool
    if clients > (room := int(pgbouncer_settings(rendered)["max_client_conn"])):
        yield f"max_client_conn={room}: there may be {clients} connections"


def pgbouncer_settings(rendered: Rendered) -> SectionProxy:
    """What PgBouncer makes of its two files, of which one includes the other. Raises LookupError."""
    files = {
        name: text
        for document in rendered.of_kind("ConfigMap")
        for name, text in document["data"].items()
        if name.endswith(".ini")
    }
    include = "%include /etc/pgbouncer/databases.ini"
    before, found, after = files["pgbouncer.ini"].partition(include)
    if not found or "[pgbouncer]" in files["databases.ini"]:
        raise LookupError("pgbouncer.ini must include databases.ini, which must not open [pgbouncer] again")
    parser = ConfigParser(interpolation=None, strict=False)  # what comes later wins
    parser.read_string(before + files["databases.ini"] + after)
    return parser["pgbouncer"]


def own_server(rendered: Rendered) -> Iterator[str]:
    """A server that is part of the rendering has what the overlay says of it."""
    said = Service.of(rendered).promised("max-connections")
    for cluster in rendered.of_kind("Cluster"):
        has = int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])
        if has != said:
            yield f"{full_name(cluster)} has max_connections={has}; lifeguard/max-connections says {said}"


def shutdown(rendered: Rendered) -> Iterator[str]:
    """Everything that a pod of the service does at its end fits into its grace period."""
    service = Service.of(rendered)
    needed = sum(shutdown_steps(service).values())
    if needed + SPARE > service.grace:
        yield (
            f"terminationGracePeriodSeconds: {service.grace} s; the end takes {needed} s, and {SPARE} s"
            " should be left"
        )
    if service.deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
        yield "maxUnavailable: a rollout must not take capacity away"


def shutdown_steps(service: Service) -> dict[str, int]:
    """Seconds of each step from the first word of it to the last."""
    return {
        "preStop": container_of(service.deployment)["lifecycle"]["preStop"]["sleep"]["seconds"],
        "DRAIN_DELAY": math.ceil(service.settings.drain_delay),
        "DRAIN_TIMEOUT": math.ceil(service.settings.drain_timeout),
        "closing": math.ceil(_BACKSTOP + LAST_SECONDS + _LAST_ANSWERS),
    }


def pooler_shutdown(rendered: Rendered) -> Iterator[str]:
    """PgBouncer's preStop, which sleeps and sends the signal itself, fits into its grace period too."""
    for deployment in rendered.of_kind("Deployment"):
        hook = container_of(deployment).get("lifecycle", {}).get("preStop", {}).get("exec")
        if hook is None:
            continue
        needed = sum(map(int, re.findall(r"\bsleep (\d+)", " ".join(hook["command"]))))
        grace = pod_of(deployment)["spec"]["terminationGracePeriodSeconds"]
        if needed + SPARE > grace:
            yield (
                f"{full_name(deployment)}: preStop takes {needed} s of {grace}, and {SPARE} s should be left"
            )


def settings_are_valid(rendered: Rendered) -> Iterator[str]:
    """Every variable exists, and the service would start with its value."""
    for workload in own_workloads(rendered):
        try:
            settings_of(rendered, workload)
        except ValidationError as error:
            for fault in error.errors():
                where = ".".join(str(part) for part in fault["loc"]).upper()
                yield f"{full_name(workload)}: {where or 'settings'}: {fault['msg']}"


def own_workloads(rendered: Rendered) -> list[Document]:
    """What runs the service's image."""
    return [
        workload
        for workload in rendered.workloads()
        if pod_of(workload)["metadata"]["labels"]["app.kubernetes.io/name"] == "lifeguard"
    ]


def commands_exist(rendered: Rendered) -> Iterator[str]:
    group = typer.main.get_command(cli)
    if not isinstance(group, typer.core.TyperGroup):
        raise TypeError("the command line has several commands")
    for workload in own_workloads(rendered):
        command = container_of(workload)["args"][0]
        if command not in group.commands:
            yield f"{full_name(workload)}: `python -m app {command}` does not exist"


def ports_and_paths(rendered: Rendered) -> Iterator[str]:
    """Who asks the service asks where it listens, and for what it answers."""
    service = Service.of(rendered)
    container = container_of(service.deployment)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    own = {"PORT": service.settings.port, "OPS_PORT": service.settings.ops_port}
    for name, port in own.items():
        if port is not None and port not in ports.values():
            yield f"{name}={port} is not a port of the container"
    asked: list[Document] = [container[kind]["httpGet"] for kind in container if kind.endswith("Probe")]
    for monitor in rendered.of_kind("PodMonitor"):
        asked += monitor["spec"]["podMetricsEndpoints"]
    paths = {getattr(route, "path", None) for route in probes.router.routes}
    for one in asked:
        if one["port"] not in ports:
            yield f"port {one['port']} is asked for {one['path']}, and is not a port of the container"
        elif ports[one["port"]] != (service.settings.ops_port or service.settings.port):
            yield f"port {one['port']} is asked for {one['path']}, which is not served there"
        if one["path"] not in paths:
            yield f"{one['path']} is asked for, and the service has no such route"


def operators_are_apart(rendered: Rendered) -> Iterator[str]:
    """Who may send requests reaches nothing that is for operators."""
    service = Service.of(rendered)
    if service.settings.ops_port is None:
        yield "OPS_PORT is not set: who may send requests can read /metrics and /pool"
    named = container_of(service.deployment)["ports"]
    theirs = {
        port[key] for port in named for key in port if port["containerPort"] == service.settings.ops_port
    }
    for policy in rendered.of_kind("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            open_here = {port["port"] for port in rule.get("ports", ())}
            if not open_here or (open_here & theirs and open_here - theirs):  # none means all
                yield f"{full_name(policy)}: the port of requests and OPS_PORT must have rules of their own"
    for published in rendered.of_kind("Service"):
        if theirs & {port.get("targetPort") for port in published["spec"]["ports"]}:
            yield f"{full_name(published)} publishes OPS_PORT"


def references(rendered: Rendered) -> Iterator[str]:
    """What is referred to by its name is rendered too."""
    for scaler in rendered.of_kind("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if not rendered.find(target["kind"], target["name"]):
            yield f"{full_name(scaler)} scales {target['kind']} {target['name']}, which is not there"
    for workload in rendered.workloads():
        pod = pod_of(workload)["spec"]
        if not rendered.find("ServiceAccount", account := pod["serviceAccountName"]):
            yield f"{full_name(workload)} needs the ServiceAccount {account}"
        maps = [one["name"] for key in ("configMap", "configMapRef") for one in everything_named(pod, key)]
        for name in maps:
            if not rendered.find("ConfigMap", name):
                yield f"{full_name(workload)} needs the ConfigMap {name}"


def secrets(rendered: Rendered) -> Iterator[str]:
    """Each Secret is rendered too, or the document tells how to make it."""
    told = DOCUMENT.read_text(encoding="utf-8")
    wanted = [
        (account, secret["name"])
        for account in rendered.of_kind("ServiceAccount")
        for secret in account.get("imagePullSecrets", ())
    ]
    wanted += [
        (workload, secret.get("name") or secret["secretName"])
        for workload in rendered.workloads()
        for secret in everything_named(pod_of(workload)["spec"], "secret")
    ]
    for user, name in wanted:
        if not rendered.find("Secret", name) and f"`{name}`" not in told:
            yield f"{full_name(user)} needs the Secret {name}; docs/kubernetes.md does not name it"


def selectors(rendered: Rendered) -> Iterator[str]:
    """Whoever selects pods finds some. Pods of operators have labels of their own."""
    pods = [pod_of(workload)["metadata"]["labels"] for workload in rendered.workloads()]
    for document in rendered.of_kind("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        spec = document["spec"]
        match document["kind"]:
            case "Service":
                wanted = [{"matchLabels": spec["selector"]}]
            case "NetworkPolicy":
                peers = [peer for rule in everything_named(spec, "from") for peer in rule]
                peers += [peer for rule in everything_named(spec, "to") for peer in rule]
                here = [peer for peer in peers if "namespaceSelector" not in peer]
                wanted = [
                    spec["podSelector"],
                    *(peer["podSelector"] for peer in here if "podSelector" in peer),
                ]
            case _:
                wanted = [spec["selector"]]
        for selector in wanted:
            ours = not any(label.startswith("cnpg.io/") for label in selector.get("matchLabels", ()))
            if ours and not any(selects(selector, labels) for labels in pods):
                yield f"{full_name(document)} selects nobody: {selector}"


def taken_by_the_chart(rendered: Rendered) -> Iterator[str]:
    """kube-prometheus-stack takes what has its label; so all of what it should take has it, or nothing."""
    theirs = rendered.of_kind("PodMonitor", "ServiceMonitor", "PrometheusRule")
    found = {full_name(one): one["metadata"].get("labels", {}).get("release") for one in theirs}
    if len(set(found.values())) > 1:
        yield f"the label `release` is not the same for all: {found}"


PROOFS: tuple[Callable[[Rendered], Iterator[str]], ...] = (
    settings_are_valid,
    connections,
    pooler,
    own_server,
    shutdown,
    pooler_shutdown,
    disruptions,
    commands_exist,
    ports_and_paths,
    operators_are_apart,
    references,
    secrets,
    selectors,
    taken_by_the_chart,
)


def faults(rendered: Rendered) -> Iterator[str]:
    """Everything that any proof finds. One that finds no ground to stand on is a fault too."""
    for proof in PROOFS:
        try:
            yield from proof(rendered)
        except (LookupError, ValidationError) as error:
            yield f"{proof.__name__}: {error}"


def report(rendered: Rendered) -> list[str]:
    """The sums, for people."""
    service = Service.of(rendered)
    return [
        f"{rendered.name}: {len(rendered.documents)} objects",
        f"  sessions  {_sum(sessions(rendered))} of {service.available}",
        f"  shutdown  {_sum(shutdown_steps(service))} of {service.grace} s",
    ]


def _sum(parts: Mapping[str, int]) -> str:
    return " + ".join(f"{value} {name}" for name, value in parts.items()) + f" = {sum(parts.values())}"
