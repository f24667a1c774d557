"""Hostnames and identities of a Deployment's nodes on a real kubelet, when its pods are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.wait import pass_time, wait_until

from .cluster import Cluster
from .enrolment import oauth
from .pods import ENABLED, Deployment, SomePod

LASTING = {ENABLED: "true", "tailscale.com/ephemeral": "false"}

SETTLED = 10.0
"""Seconds after a pod's end within which its successor has its name and identity for good."""


@pytest.fixture(scope="module", autouse=True)
def trusting(cluster: Cluster, control: ControlPlane) -> Iterator[None]:
    """A host with an OAuth client, whose pods may have any tags."""
    with oauth(cluster, control, permissions={"*": "all"}):
        yield


@pytest.fixture
def tailnet(control: ControlPlane) -> Iterator[ControlPlane]:
    """The tailnet; nodes that outlive the test's pods are removed from it."""
    there = {node["id"] for node in control.nodes()}
    yield control
    for node in control.nodes():
        if node["id"] not in there:
            control.delete_node(node["id"])


def called(control: ControlPlane, prefix: str) -> dict[str, dict[str, Any]]:
    """The nodes whose names begin with PREFIX, online or not, by name."""
    return {node["name"]: node for node in control.nodes() if node["name"].startswith(prefix)}


def are(control: ControlPlane, deployment: Deployment, names: set[str]) -> dict[str, tuple[str, ...]] | None:
    """The addresses of a Deployment's nodes by name; None unless the nodes are NAMES, all online, and its pods have their addresses."""
    nodes = called(control, deployment.name)
    if set(nodes) != names or not all(node["online"] for node in nodes.values()):
        return None
    addresses = {name: tuple(node["addresses"]) for name, node in nodes.items()}
    seen = {address for pod in deployment.pods for address in tailnet_addresses(pod)}
    return addresses if seen == {address for pair in addresses.values() for address in pair} else None


def tailnet_addresses(pod: SomePod) -> set[str]:
    """The tailnet addresses on a pod's ts0."""
    there = pod.interface("ts0").addresses if "ts0" in pod.netns.links() else []
    return {address for address in there if not address.startswith("fe80:")}


def restart(cluster: Cluster, *deployments: Deployment) -> None:
    """Run `kubectl rollout restart`, and wait until the old pods are gone."""
    old = [pod for deployment in deployments for pod in deployment.pods]
    cluster.kubectl("rollout", "restart", *(f"deployment/{each.name}" for each in deployments))
    for deployment in deployments:
        deployment.rolled_out()
    for pod in old:
        pod.gone()


def test_ten_rollouts(cluster: Cluster, tailnet: ControlPlane) -> None:
    """After a rollout the new pod's node has the old name and, unless it is ephemeral, the old addresses; no second node is left.

    This is so within ten seconds, in ten rollouts, of which each begins as soon as the previous one has settled, and still ten
    seconds after the last one. An ephemeral node keeps its name, but is a new node.
    """
    if cluster.runtime.name != "containerd-2":
        pytest.skip("ten rollouts are long, and what they try is not the runtime's: containerd 2 alone")
    ephemeral = {ENABLED: "true"}
    with (
        Deployment(cluster, "lasts", 1, LASTING) as lasts,
        Deployment(cluster, "passes", 1, ephemeral) as passes,
    ):
        is_lasting = partial(are, tailnet, lasts, {"lasts"})
        is_passing = partial(are, tailnet, passes, {"passes"})
        first = wait_until(is_lasting, what="the node lasts")
        wait_until(is_passing, what="the node passes")
        for _ in range(10):
            restart(cluster, lasts, passes)
            assert wait_until(is_lasting, SETTLED, what="the name of the one that ended") == first
            wait_until(is_passing, SETTLED, what="the name of the one that ended")
        last = is_passing()
        pass_time(SETTLED)
        assert (is_lasting(), is_passing()) == (first, last)


def test_a_rollout_takes_a_tag_away(cluster: Cluster, tailnet: ControlPlane) -> None:
    """After a rollout with one tag less, the node is the same one, at the same addresses, without the tag."""
    tags = {"tailscale.com/tags": "tag:k8s-pod,tag:media"}
    with Deployment(cluster, "less", 1, LASTING | tags) as less:
        first = wait_until(lambda: are(tailnet, less, {"less"}), what="the node less")
        assert called(tailnet, "less")["less"]["tags"] == ["tag:k8s-pod", "tag:media"]
        (old,) = less.pods
        less.annotate(tags="tag:k8s-pod")
        less.rolled_out()
        old.gone()
        assert wait_until(lambda: are(tailnet, less, {"less"}), SETTLED, what="the node less") == first
        assert called(tailnet, "less")["less"]["tags"] == ["tag:k8s-pod"]


def test_three_replicas_keep_their_three_names(cluster: Cluster, tailnet: ControlPlane) -> None:
    """Three replicas keep their three hostnames, and no other node is left, whichever pods are replaced; a rollout keeps the addresses."""
    with Deployment(cluster, "web", 3, LASTING) as web:
        three = partial(are, tailnet, web, {"web", "web-1", "web-2"})
        first = wait_until(three, what="three nodes")
        restart(cluster, web)
        assert wait_until(three, SETTLED, what="the names of those that ended") == first
        for leavers in (slice(1), slice(1, 2), slice(3)):
            replace(web, web.pods[leavers])
            wait_until(three, SETTLED, what="the names of those that ended")


def replace(deployment: Deployment, leavers: list[SomePod]) -> None:
    """Delete pods, and wait until they are gone and other pods are Ready in their place."""
    for pod in leavers:
        pod.delete("--wait=false")
    for pod in leavers:
        pod.gone()
    deployment.rolled_out()
