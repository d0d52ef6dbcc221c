"""What kustomize renders, and how to find one's way in it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]  # as PyYAML gives it; what may be in it is the schema's business


@dataclass(frozen=True)
class Rendered:
    """The objects of one overlay or example."""

    name: str
    text: str
    documents: Sequence[Document]

    @classmethod
    def from_folder(cls, kubectl: Path, folder: Path) -> Rendered:
        """Render with kubectl's own kustomize. Raises CalledProcessError; kubectl says why."""
        text = subprocess.run(
            [kubectl, "kustomize", folder], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        return cls(folder.name, text, list(yaml.safe_load_all(text)))

    def of_kind(self, *kinds: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] in kinds]

    def find(self, kind: str, name: str) -> Document | None:
        return next((one for one in self.of_kind(kind) if one["metadata"]["name"] == name), None)

    def get(self, kind: str, name: str) -> Document:
        """Raises LookupError."""
        if found := self.find(kind, name):
            return found
        raise LookupError(f"there is no {kind} {name}")

    def workloads(self) -> list[Document]:
        """Everything that starts pods."""
        return self.of_kind("Deployment", "Job", "StatefulSet")

    def variables(self, container: Document) -> dict[str, str]:
        """The environment of a container, as far as it is known here."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            found |= self.get("ConfigMap", source["configMapRef"]["name"])["data"]
        return found | {entry["name"]: entry["value"] for entry in container.get("env", ())}


def pod_of(workload: Document) -> Document:
    pod: Document = workload["spec"]["template"]
    return pod


def container_of(workload: Document) -> Document:
    (container,) = pod_of(workload)["spec"]["containers"]
    found: Document = container
    return found


def full_name(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def selects(selector: Document, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes a pod with these labels."""
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return all(labels.get(name) == value for name, value in wanted.items()) and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ())
    )


def everything_named(value: object, key: str) -> Iterator[Any]:
    """What stands under `key` anywhere in a document."""
    match value:
        case dict():
            for name, inner in value.items():
                if name == key:
                    yield inner
                yield from everything_named(inner, key)
        case list():
            for inner in value:
                yield from everything_named(inner, key)
