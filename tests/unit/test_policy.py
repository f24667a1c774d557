"""What a pod should be, from what the host and the pod say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailscale_cni import errors, policy
from tailscale_cni.policy import annotations as table
from tailscale_cni.policy import hostname


def decide(
    pod: str = "web", namespace: str = "default", enroll: str = "annotated", **wishes: str
) -> policy.PodIntent | None:
    """The intent for a pod with these annotations of ours; ``_`` stands for ``-``."""
    return policy.decide(
        namespace=namespace,
        pod=pod,
        annotations={f"tailscale.com/{key.replace('_', '-')}": value for key, value in wishes.items()},
        enroll=enroll,
        exclude_namespaces=("kube-system",),
        tags=("tag:k8s-pod",),
    )


@pytest.mark.parametrize(
    ("enroll", "namespace", "wishes", "enrolled"),
    [
        ("annotated", "default", {}, False),
        ("annotated", "default", {"enabled": "true"}, True),
        ("annotated", "default", {"enabled": "false"}, False),
        ("annotated", "default", {"hostname": "plex"}, False),
        ("annotated", "kube-system", {"enabled": "true"}, True),
        ("all", "default", {}, True),
        ("all", "default", {"enabled": "false"}, False),
        ("all", "kube-system", {}, False),
        ("all", "kube-system", {"enabled": "true"}, True),
    ],
)
def test_who_is_enrolled(enroll: str, namespace: str, wishes: dict[str, str], *, enrolled: bool) -> None:
    """The pod's own word first, then the host's default."""
    assert (decide(namespace=namespace, enroll=enroll, **wishes) is not None) == enrolled


def test_a_pod_that_is_left_alone_may_say_what_it_likes() -> None:
    """What is not enrolled cannot fail for its other annotations."""
    assert decide(enabled="false", hostname="not a label", tags="tag:x") is None


@pytest.mark.parametrize("value", ["True", "yes", "1", "", " true", "true\n", "\u202etrue", "x" * 262144])
def test_a_flag_is_true_or_false(value: str) -> None:
    """Anything else is an error that names pod, annotation and value, and is short."""
    with pytest.raises(errors.InvalidAnnotation) as caught:
        decide(enabled=value)
    message = str(caught.value)
    assert "pod default/web" in message
    assert "tailscale.com/enabled" in message
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize(
    "value", ["", "-a", "a-", "A", "a.b", "a_b", "a b", "ä", "a" * 64, "a\0", "../a", "²"]
)
def test_a_hostname_is_a_dns_label(value: str) -> None:
    """What is none is refused, not bent into one."""
    with pytest.raises(errors.InvalidAnnotation):
        decide(enabled="true", hostname=value)


def test_the_pods_hostname_wins() -> None:
    """A pod is called what it asks to be called."""
    intent = decide(enabled="true", hostname="plex")
    assert intent
    assert intent.hostname == "plex"


@pytest.mark.parametrize("row", [row for row in table.TABLE if row.parse is None], ids=lambda row: row.name)
def test_a_feature_that_is_not_there_is_refused(row: table.Annotation) -> None:
    """An annotation of a later version is never ignored."""
    with pytest.raises(errors.UnsupportedAnnotation) as caught:
        decide(enabled="true", **{row.name.replace("-", "_"): "x"})
    assert "not supported by this version" in str(caught.value)


def test_annotations_of_others_are_no_business_of_ours() -> None:
    """A key that only looks like ours is left alone."""
    wishes: dict[str, Any] = table.parse(
        "pod a/b", {"tailscale.com/unheard-of": "x", "example.com/enabled": "maybe"}
    )
    assert wishes == {}


@pytest.mark.parametrize(
    ("pod", "name"),
    [
        ("plex-deployment-7b5d9c6f8-x2c4z", "plex"),
        ("plex-7b5d9c6f8-x2c4z", "plex"),
        ("postgres-0", "postgres-0"),
        ("node-exporter-x2c4z", "node-exporter"),
        ("bare", "bare"),
        ("web-tests", "web-tests"),
        ("a.b", "a-b"),
        ("deployment", "deployment"),
    ],
)
def test_a_node_is_called_like_its_workload(pod: str, name: str) -> None:
    """Without what Kubernetes appended to it."""
    assert hostname.from_pod(pod) == name


@given(st.text(max_size=300))
def test_whatever_a_pod_is_called_its_hostname_is_a_label(pod: str) -> None:
    """Also for names that no pod can have."""
    assert table.dns_label(hostname.from_pod(pod))
