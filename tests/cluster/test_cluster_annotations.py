"""The annotations on a real kubelet: each does what its table row says, and a rejected one is in the pod's events and can be corrected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tailscale_cni.policy.annotations import TABLE, Annotation
from tests.kit.controlplane import ControlPlane
from tests.kit.wait import wait_until

from .cluster import Cluster
from .enrolment import CONFIG, configured, helpers, oauth
from .pods import ENABLED, Pod, SomePod


@pytest.fixture(scope="module", autouse=True)
def trusting(cluster: Cluster, control: ControlPlane) -> Iterator[None]:
    """A host whose auth keys get the tags that pods ask for; pods may ask for one tag more than by default."""
    with oauth(cluster, control, permissions={"*": {"tags": ["tag:media"]}}):
        yield


def wishing(cluster: Cluster, name: str, **wishes: str) -> Pod:
    """An enrolled pod with these annotations."""
    return Pod(cluster, name, {ENABLED: "true", **ours(wishes)})


def ours(wishes: dict[str, str]) -> dict[str, str]:
    """The annotations with these short names."""
    return {f"tailscale.com/{name}": value for name, value in wishes.items()}


def node_of(control: ControlPlane, name: str) -> dict[str, Any]:
    """The node of that name, once it exists."""
    return wait_until(lambda: control.node(name), what=f"the node {name}")


def refused(pod: SomePod) -> str:
    """The latest event of kubelet about a pod that does not start, once there is one."""
    return wait_until(lambda: pod.events("FailedCreatePodSandBox"), what=f"an event of {pod.name}")[-1]


def enabled(cluster: Cluster, control: ControlPlane) -> None:
    """``"true"`` makes the pod a node; ``"false"`` does not, even on a host that enrolls all pods."""
    with configured(cluster, enroll="all"), Pod(cluster, "declines", {ENABLED: "false"}) as no:
        no.ready()
        assert not no.interface("ts0").exists
    with Pod(cluster, "agrees", {ENABLED: "true"}) as yes:
        yes.ready()
        node_of(control, "agrees")


def tags(cluster: Cluster, control: ControlPlane) -> None:
    """The node has the annotation's tags instead of the host's."""
    with wishing(cluster, "tagged", tags="tag:media") as pod:
        pod.ready()
        assert node_of(control, "tagged")["tags"] == ["tag:media"]


def hostname(cluster: Cluster, control: ControlPlane) -> None:
    """The node has the annotation's hostname."""
    with wishing(cluster, "misnamed", hostname="well-named") as pod:
        pod.ready()
        node = node_of(control, "well-named")
        wait_until(
            lambda: set(node["addresses"]) <= set(pod.interface("ts0").addresses), what="ts0's addresses"
        )
        assert control.node("misnamed") is None


def ephemeral(cluster: Cluster, control: ControlPlane) -> None:
    """A node that is not ephemeral outlives its pod; an ephemeral one does not, even if the pod's name is like that of a StatefulSet's."""
    with (
        wishing(cluster, "stays", ephemeral="false") as stays,
        wishing(cluster, "goes-0", ephemeral="true") as goes,
    ):
        for pod in (stays, goes):
            pod.ready()
        kept, forgotten = node_of(control, "stays"), node_of(control, "goes-0")
        assert (kept["ephemeral"], forgotten["ephemeral"]) == (False, True)
    wait_until(lambda: not control.node("goes-0"), what="the end of the node goes-0")
    wait_until(lambda: not node_of(control, "stays")["online"], what="the node stays being offline")
    assert node_of(control, "stays")["nodeKey"] == kept["nodeKey"]
    control.delete_node(kept["id"])


def required(cluster: Cluster, control: ControlPlane) -> None:
    """While the control plane is down, the pod does not start, and its events say why. Once it is back, the pod starts."""
    with control.outage():
        pod = wishing(cluster, "must", required="true")
        said = refused(pod)
        assert f"pod default/{pod.name}" in said
        assert control.url in said
        assert pod.get()["status"]["phase"] == "Pending"
    with pod:
        pod.ready()
        node = node_of(control, "must")
        assert set(node["addresses"]) <= set(pod.interface("ts0").addresses)


DOES: Final[dict[str, Callable[[Cluster, ControlPlane], None]]] = {
    "enabled": enabled,
    "tags": tags,
    "hostname": hostname,
    "ephemeral": ephemeral,
    "required": required,
}


@pytest.mark.parametrize("row", [row for row in TABLE if row.parse], ids=lambda row: row.name)
def test_an_annotation_does_what_its_row_says(
    cluster: Cluster, control: ControlPlane, row: Annotation
) -> None:
    """Each supported annotation does what its row of the table says."""
    DOES[row.name](cluster, control)


def test_what_is_not_supported_yet_is_refused(cluster: Cluster, control: ControlPlane) -> None:
    """An annotation that is not supported keeps the pod from starting, and the events name annotation and value."""
    before = helpers(cluster)
    with ExitStack() as stack:
        pods = {
            row.key: stack.enter_context(wishing(cluster, f"early-{row.name}", **{row.name: "true"}))
            for row in TABLE
            if row.parse is None
        }
        for key, pod in pods.items():
            assert f"annotation {key}='true' is not supported by this version" in refused(pod)
        assert helpers(cluster) == before
        for pod in pods.values():
            pod.delete("--wait=false")
    assert [node["name"] for node in control.nodes() if node["name"].startswith("early-")] == []


PERMITS: Final = """'"default": {"tags": ["tag:media", "tag:db"]} (below permissions)' in """ + CONFIG
"""The setting that would permit the tag, and its file."""


@pytest.mark.parametrize(
    ("wish", "said", "mended"),
    [
        ({"tags": "tag:db"}, ["is not permitted", "may not ask for tag:db", PERMITS], {"tags": "tag:media"}),
        ({"hostname": "My_Films"}, ["is not valid", "a DNS label"], {"hostname": "my-films"}),
        ({"funnel": "443:80"}, ["is not supported by this version"], {"funnel": None}),
    ],
    ids=["not permitted", "not valid", "not supported"],
)
def test_a_pod_starts_once_its_annotation_is_mended(
    cluster: Cluster, control: ControlPlane, wish: dict[str, str], said: list[str], mended: dict[str, Any]
) -> None:
    """The events name the pod, the annotation, its value and the setting; after `kubectl annotate`, kubelet's next attempt succeeds."""
    (name, value), *_ = wish.items()
    with wishing(cluster, "wishful", **wish) as pod:
        told = refused(pod)
        assert f"pod default/wishful: annotation tailscale.com/{name}='{value}'" in told
        assert [words for words in said if words not in told] == []
        pod.annotate(**mended)
        pod.ready()
        node = node_of(control, mended.get("hostname") or "wishful")
        assert node["tags"] == [mended.get("tags") or "tag:k8s-pod"]
        wait_until(
            lambda: set(node["addresses"]) <= set(pod.interface("ts0").addresses), what="ts0's addresses"
        )


HOSTILE: Final = {
    "newline": "web\nFAILED\x1b[31m",
    "nul": "web\0",
    "bidi": "web\u202egnp.exe",
    "long": "x" * (262144 - 300),  # Kubernetes permits 256 KiB of annotations per pod
}


def test_hostile_annotations_are_told_in_a_line(cluster: Cluster, control: ControlPlane) -> None:
    """Whatever the annotation contains, the event names it and is short and printable, and the pod does not become a node."""
    before = helpers(cluster), {node["nodeKey"] for node in control.nodes()}
    with ExitStack() as stack:
        pods = [
            stack.enter_context(wishing(cluster, f"hostile-{name}", hostname=value))
            for name, value in HOSTILE.items()
        ]
        for pod in pods:
            said = refused(pod)
            assert f"pod default/{pod.name}: annotation tailscale.com/hostname=" in said
            assert said.isprintable()
            assert len(said) < 1000
        assert (helpers(cluster), {node["nodeKey"] for node in control.nodes()}) == before
        for pod in pods:
            pod.delete("--wait=false")
