"""The proof that pods do not all go with one node or one zone."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.kubernetes.rendered import Document, Rendered, full_name, pod_of, selects


def disruptions(rendered: Rendered) -> Iterator[str]:
    """Pods are spread. Where there are several, a node can be drained, and takes one at a time with it."""
    for deployment in rendered.of_kind("Deployment"):
        name, labels = full_name(deployment), pod_of(deployment)["metadata"]["labels"]
        spread = pod_of(deployment)["spec"].get("topologySpreadConstraints", ())
        if not any(selects(one["labelSelector"], labels) for one in spread):
            yield f"{name}: no topologySpreadConstraints of its own pods"
        if _fewest(rendered, deployment) == 1:
            continue
        budgets = [
            one["spec"]
            for one in rendered.of_kind("PodDisruptionBudget")
            if selects(one["spec"]["selector"], labels)
        ]
        if [budget.get("maxUnavailable") for budget in budgets] != [1]:
            yield f"{name}: needs one PodDisruptionBudget, with maxUnavailable: 1"


def _fewest(rendered: Rendered, deployment: Document) -> int:
    """Pods that it has at least."""
    fewest: int = deployment["spec"].get("replicas", 1)
    for scaler in rendered.of_kind("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"]):
            fewest = scaler["spec"]["minReplicas"]
    return fewest
