"""Policy: how the configuration of the host and the annotations of a pod and its namespace give a pod's intent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from tailscale_cni import config, errors, policy
from tailscale_cni.policy import Owner, hostname, numbered, permissions
from tailscale_cni.policy import annotations as table
from tailscale_cni.tailnet import is_label

PROPERTY = rules(deadline=None)  # the machine may be busy
NOTHING: Mapping[str, str] = MappingProxyType({})


def host(**settings: Any) -> config.Config:
    """Returns a valid configuration with these settings."""
    checked = config.load_config({"configFile": "/nonexistent", **settings})
    policy.check(checked)
    return checked


def ours(wishes: Mapping[str, str]) -> dict[str, str]:
    """Returns annotations of these names. ``_`` stands for ``-``."""
    return {f"tailscale.com/{key.replace('_', '-')}": value for key, value in wishes.items()}


def decide(
    pod: str = "web",
    namespace: str = "default",
    by_api: Mapping[str, str] = NOTHING,
    settings: Mapping[str, Any] = MappingProxyType({}),
    **wishes: str,
) -> policy.PodIntent | None:
    """Returns the intent for a pod with these annotations. ``by_api`` has its namespace's, and ``settings`` the host's configuration."""
    return policy.decide(
        host(**settings),
        namespace=namespace,
        pod=pod,
        annotations=ours(wishes),
        namespace_annotations=ours(by_api),
    )


def enrolled(pod: str = "web", **more: Any) -> policy.PodIntent:
    """Returns the intent for an enabled pod."""
    intent = decide(pod, **{"enabled": "true", **more})
    assert intent
    return intent


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
def test_who_is_enrolled(enroll: str, namespace: str, wishes: dict[str, Any], *, enrolled: bool) -> None:
    """A pod's own annotation decides whether it is enrolled, and then the host's ``enroll``."""
    intent = decide(namespace=namespace, settings={"enroll": enroll}, **wishes)
    assert (intent is not None) == enrolled


@pytest.mark.parametrize(
    ("by_host", "by_api", "by_pod", "is_node"),
    [
        (None, None, None, False),
        ("true", None, None, True),
        ("true", "false", None, False),
        ("true", None, "false", False),
        ("false", "true", None, True),
        (None, "true", "false", False),
        ("true", "false", "true", True),
    ],
)
@pytest.mark.parametrize("enroll", ["annotated", "all"])
def test_a_namespace_is_enrolled(
    *, enroll: str, by_host: str | None, by_api: str | None, by_pod: str | None, is_node: bool
) -> None:
    """Host, namespace and pod can each enable or disable a pod. The pod overrides the namespace, and the namespace the host."""
    layers = ({"enabled": word} if word else {} for word in (by_host, by_api, by_pod))
    in_configuration, in_api, in_pod = layers
    settings = {"enroll": enroll, "namespaces": {"default": ours(in_configuration)}}
    intent = decide(by_api=in_api, settings=settings, **in_pod)
    nobody_said = not (by_host or by_api or by_pod)
    assert (intent is not None) == (enroll == "all" if nobody_said else is_node)


def test_a_pod_that_is_left_alone_may_say_what_it_likes() -> None:
    """A pod that is not enrolled cannot fail because of its other annotations."""
    assert decide(enabled="false", hostname="not a label", tags="tag:x") is None


@pytest.mark.parametrize("value", ["True", "yes", "1", "", " true", "true\n", "\u202etrue", "x" * 262144])
def test_a_flag_is_true_or_false(value: str) -> None:
    """A flag that is not "true" or "false" is an error. It names pod, annotation and value, and is short."""
    with pytest.raises(errors.InvalidAnnotation) as caught:
        decide(enabled=value)
    message = str(caught.value)
    assert "pod default/web" in message
    assert f"tailscale.com/enabled={errors.show(value)}" in message
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize(
    "value", ["", "-a", "a-", "A", "a.b", "a_b", "a b", "ä", "a" * 64, "a\0", "../a", "²"]
)
def test_a_hostname_is_a_dns_label(value: str) -> None:
    """A hostname that is not a DNS label is rejected and not changed into one."""
    with pytest.raises(errors.InvalidAnnotation):
        decide(enabled="true", hostname=value)


def test_the_pods_hostname_wins() -> None:
    """A pod's annotated hostname is used."""
    assert enrolled(hostname="plex").name == "plex"


TRUSTED: dict[str, Any] = {"permissions": {"*": "all"}}


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("tag:a", ("tag:a",)),
        ("tag:b,tag:a", ("tag:b", "tag:a")),
        ("tag:b, tag:a ,tag:b", ("tag:b", "tag:a")),
        (f"tag:{'a' * 96}", (f"tag:{'a' * 96}",)),
    ],
)
def test_tags_are_a_list(value: str, tags: tuple[str, ...]) -> None:
    """A pod's tags replace the host's, without duplicates and in their order."""
    assert enrolled(settings=TRUSTED, tags=value).tags == tags


@pytest.mark.parametrize(
    "value",
    [
        "",
        ",",
        "tag:a,",
        "a",
        "tag:",
        "tag:1",
        "tag:a b",
        "tag:ä",
        "tag:a\n",
        "tag:a;tag:b",
        "TAG:a",
        "tag:\u202ea",
        f"tag:{'a' * 97}",
        ",".join(f"tag:a{n}" for n in range(33)),
        "tag:a," * 50000,
    ],
)
def test_what_is_no_list_of_tags_is_refused(value: str) -> None:
    """The error for an invalid list of tags says what is expected, and shows the value cut."""
    with pytest.raises(errors.InvalidAnnotation, match="as in tag:web,tag:public") as caught:
        decide(enabled="true", settings=TRUSTED, tags=value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("row", [row for row in table.TABLE if row.parse is None], ids=lambda row: row.name)
def test_a_feature_that_is_not_there_is_refused(row: table.Annotation) -> None:
    """The annotation of a feature that is not supported is always an error, whatever the permissions."""
    with pytest.raises(errors.UnsupportedAnnotation) as caught:
        decide(enabled="true", settings=TRUSTED, **dict[str, Any]([(row.name, "x")]))
    assert "not supported by this version" in str(caught.value)


def test_nodes_are_ephemeral_unless_their_pods_come_back() -> None:
    """A StatefulSet pod's node is non-ephemeral, and other nodes are ephemeral. Pod and host can override this."""
    assert enrolled("plex-7b5d9c6f8-x2c4z").ephemeral
    assert not enrolled("postgres-0").ephemeral
    assert enrolled("index-3-x2c4z").ephemeral  # a pod of an indexed Job: its name has a random suffix
    assert enrolled("postgres-0", ephemeral="true").ephemeral
    assert not enrolled("plex-7b5d9c6f8-x2c4z", ephemeral="false").ephemeral
    assert not enrolled("plex-7b5d9c6f8-x2c4z", settings={"ephemeral": False}).ephemeral


def test_a_pod_wants_the_number_that_its_name_has() -> None:
    """A pod wants the number in its name, unless its hostname already has that number."""
    assert (enrolled("postgres-2").name, enrolled("postgres-2").number) == ("postgres-2", None)
    named = enrolled("postgres-2", hostname="db")
    assert (named.name, named.number) == ("db", 2)
    assert enrolled("plex-7b5d9c6f8-x2c4z", hostname="db").number is None


@given(name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True), number=st.integers(0, 9999))
def test_numbered_names_are_labels(name: str, number: int) -> None:
    """A hostname with a number is a DNS label however long the name is, and two numbers give two hostnames."""
    assert is_label(numbered(name, number))
    assert numbered(name, number) != numbered(name, number + 1)


def test_annotations_of_others_are_no_business_of_ours() -> None:
    """Annotations that are not in the table are ignored, even with our prefix."""
    others = {"tailscale.com/unheard-of": "x", "example.com/enabled": "maybe", "tailscale.com/": "x"}
    assert table.parse("pod a/b", others) == {}


def test_every_row_names_settings_and_permissions_that_exist() -> None:
    """The table refers only to settings and permissions that exist."""
    keys = {row.key for row in config.SETTINGS}
    for row in table.TABLE:
        assert row.default in keys | {""}
        assert row.permission in config.Permission._fields


NAMESPACES: dict[str, Any] = {
    "namespaces": {
        "media": {"tailscale.com/enabled": "true", "tailscale.com/tags": "tag:media"},
        "db": {"tailscale.com/required": "true"},
    }
}


def test_a_namespace_has_defaults() -> None:
    """A namespace's annotations in the host's configuration apply to its pods only."""
    intent = decide(namespace="media", settings=NAMESPACES)
    assert intent
    assert intent.tags == ("tag:media",)
    assert decide(namespace="default", settings=NAMESPACES) is None
    assert enrolled(namespace="db", settings=NAMESPACES).required
    assert not enrolled(namespace="db", settings=NAMESPACES, required="false").required


def test_a_pod_overrides_its_namespace() -> None:
    """A pod's annotations override its namespace's in the API, and those the host's configuration, one by one."""
    settings = NAMESPACES | {"permissions": {"media": {"tags": ["tag:own", "tag:api"]}}}
    intent = enrolled(namespace="media", settings=settings, tags="tag:own", by_api={"tags": "tag:api"})
    assert intent.tags == ("tag:own",)
    intent = enrolled(namespace="media", settings=settings, by_api={"tags": "tag:api"})
    assert intent.tags == ("tag:api",)


def test_an_error_names_the_layer() -> None:
    """The error for a namespace's annotation names the namespace and not the pod."""
    with pytest.raises(
        errors.InvalidAnnotation, match=r"^namespace default: annotation tailscale.com/hostname"
    ):
        decide(enabled="true", by_api={"hostname": "A"})


@pytest.mark.parametrize(
    "wishes",
    [
        {"hostname": "plex"},
        {"ephemeral": "true"},
        {"required": "true"},
        {"tags": "tag:k8s-pod"},
        {"tags": "tag:ns-media"},
        {"tags": "tag:ns-media,tag:k8s-pod"},
    ],
)
def test_what_needs_no_permission(wishes: dict[str, Any]) -> None:
    """A pod needs no permission for the tags that it would have anyway, its namespace's tag, its hostname, ephemeral and required."""
    assert enrolled(namespace="media", **wishes)


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ("tag:db", "tag:db"),
        ("tag:k8s-pod,tag:db,tag:x", "tag:db, tag:x"),
        ("tag:ns-other", "tag:ns-other"),
        ("tag:K8s-pod", "tag:K8s-pod"),
    ],
)
def test_other_tags_need_one(value: str, refused: str) -> None:
    """A pod needs permission for other tags. The error names them and has the line that permits them."""
    with pytest.raises(errors.NotPermitted) as caught:
        decide(enabled="true", namespace="media", tags=value)
    said = str(caught.value)
    assert "pod media/web: annotation tailscale.com/tags=" in said
    assert repr(value) in said
    assert said.endswith(f"may not ask for {refused}")
    assert "in /nonexistent" in caught.value.advice
    settings = yaml.safe_load(caught.value.advice.split("'")[1])
    assert set(settings) == {"permissions"}
    assert enrolled(namespace="media", settings=settings, tags=value).tags == tuple(value.split(","))
    with pytest.raises(errors.NotPermitted):
        decide(enabled="true", namespace="other", settings=settings, tags="tag:db")


def test_the_line_to_paste_keeps_what_is_there() -> None:
    """If a namespace already has permissions, the line to paste has all of them and the missing one."""
    rows = {"media": {"tags": ["tag:a"], "features": ["hostname"]}, "*": "none"}
    with pytest.raises(errors.NotPermitted) as caught:
        decide(enabled="true", namespace="media", settings={"permissions": rows}, tags="tag:b")
    line = caught.value.advice.split("'")[1]
    assert line.endswith(" (below permissions)")
    pasted = yaml.safe_load(f"{{{line.removesuffix(' (below permissions)')}}}")
    assert set(pasted) == {"media"}
    assert pasted["media"]["tags"] == ["tag:a", "tag:b"]
    settings = {"permissions": rows | pasted}
    assert enrolled(namespace="media", settings=settings, tags="tag:b,tag:a", hostname="x")


def test_all_trusted_is_one_line() -> None:
    """One line of configuration permits everything."""
    settings = yaml.safe_load('permissions: {"*": all}')
    assert enrolled(settings=settings, tags="tag:x", hostname="y", ephemeral="true", required="true")


def test_none_is_none() -> None:
    """In a namespace with the permission "none", no pod can enrol itself. Pods that do not ask for it start."""
    settings = {"permissions": {"guests": "none"}}
    with pytest.raises(errors.NotPermitted, match="namespace guests may not ask for enabled"):
        decide(enabled="true", namespace="guests", settings=settings)
    assert decide(enabled="false", namespace="guests", settings=settings) is None
    assert decide(namespace="guests", settings=settings) is None
    assert decide(namespace="guests", settings=settings | {"enroll": "all"})
    assert enrolled(settings=settings)


def test_a_list_of_features_is_the_whole_list() -> None:
    """A list of features permits only those, and always enabled and required."""
    settings: dict[str, Any] = {"permissions": {"*": {"features": []}}}
    assert enrolled(settings=settings, required="true")
    with pytest.raises(errors.NotPermitted, match="may not ask for hostname"):
        decide(enabled="true", settings=settings, hostname="plex")


@pytest.mark.parametrize(
    ("namespace", "tags"),
    [
        ("media", ("tag:exact",)),
        ("media-2", ("tag:long",)),
        ("mail", ("tag:short",)),
        ("other", ("tag:any",)),
        ("media-quiet", ("tag:long",)),
    ],
)
def test_the_most_specific_row_decides(namespace: str, tags: tuple[str, ...]) -> None:
    """A name precedes patterns, and a longer pattern a shorter one, in any order. A row without a key leaves it to the next row."""
    rows = {
        "*": {"tags": ["tag:any"]},
        "m*": {"tags": ["tag:short"], "features": ["hostname"]},
        "media*": {"tags": ["tag:star"]},
        "media-quiet": {"features": []},
        "media-*": {"tags": ["tag:long"]},
        "media": {"tags": ["tag:exact"]},
    }
    for order in (rows, dict(reversed(rows.items()))):
        assert permissions.granted(host(permissions=order).permissions, namespace).tags == tags


def test_what_the_api_says_of_a_namespace_needs_permission() -> None:
    """A namespace's annotations in the API need permission. Those in the host's configuration do not."""
    with pytest.raises(
        errors.NotPermitted, match=r"^namespace media: annotation tailscale.com/tags='tag:db'"
    ):
        decide(enabled="true", namespace="media", by_api={"tags": "tag:db"})
    settings: dict[str, Any] = {"namespaces": {"media": {"tailscale.com/tags": "tag:db"}}}
    assert enrolled(namespace="media", settings=settings).tags == ("tag:db",)
    assert enrolled(namespace="media", settings=settings, tags="tag:db").tags == ("tag:db",)
    layer = {"media": ours({"hostname": "by-admin"})}
    settings = {"namespaces": layer, "permissions": {"media": "none"}, "enroll": "all"}
    by_admin = decide(namespace="media", settings=settings)
    assert by_admin
    assert by_admin.name == "by-admin"


WORD = st.text("ab-*?", min_size=1, max_size=4)
ROW = st.sampled_from(["all", "none"]) | st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(st.sampled_from(["*", "tag:a", "tag:b*", "tag:?"]), max_size=2),
        "features": st.lists(st.sampled_from(["*", "hostname", "host*", "ephemeral"]), max_size=2),
    },
)
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.sampled_from(["tag:a", "tag:b,tag:a", "tag:bc", "tag:k8s-pod", "tag:ns-a", "tag:ns-b"]),
        "hostname": st.sampled_from(["x", "y"]),
        "ephemeral": st.just("true"),
        "required": st.sampled_from(["true", "false"]),
    },
)


@PROPERTY
@given(st.dictionaries(WORD, ROW, max_size=4), st.sampled_from(["a", "b", "ab-a"]), WISHES, WISHES)
def test_layers_never_widen_permissions(
    rows: dict[str, Any], namespace: str, by_api: dict[str, str], by_pod: dict[str, str]
) -> None:
    """Annotations of a namespace and a pod are permitted together exactly if each layer's effective ones are permitted alone."""
    settings = {"permissions": rows}

    def is_granted(**wishes: Any) -> bool:
        try:
            return decide(namespace=namespace, settings=settings, enabled="true", **wishes) is not None
        except errors.NotPermitted:
            return False

    left = {key: value for key, value in by_api.items() if key not in by_pod}
    assert is_granted(by_api=by_api, **by_pod) == (is_granted(**left) and is_granted(**by_pod))


@PROPERTY
@given(st.dictionaries(st.sampled_from(sorted(table.ROWS)), st.text()))
def test_parsing_raises_nothing_but_our_errors(annotations: dict[str, str]) -> None:
    """Any annotations give an intent, no intent, or an error that names the pod."""
    said = ""
    try:
        policy.decide(host(), namespace="a", pod="b", annotations=annotations)
    except errors.Error as e:
        said = str(e) + e.advice
    assert said.isprintable()
    assert said.startswith("pod a/b: annotation tailscale.com/") or not said


@pytest.mark.parametrize(
    ("wishes", "tags"),
    [
        ({}, ("tag:k8s-pod", "tag:ns-media")),
        ({"tags": "tag:a"}, ("tag:a", "tag:ns-media")),
        ({"tags": "tag:ns-media,tag:a"}, ("tag:ns-media", "tag:a")),
    ],
)
def test_a_namespace_has_a_tag_of_its_own(wishes: dict[str, Any], tags: tuple[str, ...]) -> None:
    """With autoNamespaceTag, every node has its namespace's tag once, with its other tags."""
    settings = TRUSTED | {"autoNamespaceTag": True}
    assert enrolled(namespace="media", settings=settings, **wishes).tags == tags


@pytest.mark.parametrize(
    ("pod", "name"),
    [
        ("plex-deployment-7b5d9c6f8-x2c4z", "plex"),
        ("plex-7b5d9c6f8-x2c4z", "plex"),
        ("plex-7b5d9c6f8-24578", "plex"),
        ("web-v2-5d4f8c7d9b-x2c4z", "web-v2"),
        ("postgres-0", "postgres-0"),
        ("postgres-12", "postgres-12"),
        ("postgres-statefulset-0", "postgres-0"),
        ("node-exporter-x2c4z", "node-exporter"),
        ("node-exporter-daemonset-x2c4z", "node-exporter"),
        ("web-replicaset-x2c4z", "web"),
        ("migrate-x2c4z", "migrate"),
        ("migrate-job-x2c4z", "migrate"),
        ("train-3-x2c4z", "train-3"),
        ("backup-28391820-x7k2p", "backup"),
        ("backup-cronjob-28391820-x7k2p", "backup"),
        ("backup-1632150000-x7k2p", "backup"),
        ("backup-28391820-3-x7k2p", "backup-3"),
        ("migrate-20240101-x7k2p", "migrate-20240101"),
        ("bare", "bare"),
        ("bare-2024", "bare-2024"),
        ("web-tests", "web-tests"),
        ("a.b", "a-b"),
        ("deployment", "deployment"),
        ("x2c4z", "x2c4z"),
        ("webx2c4z", "webx2c4z"),
        (f"{'n' * 60}-{'n' * 9}-0", f"{'n' * 60}-0"),
    ],
)
def test_a_node_is_called_like_its_workload(pod: str, name: str) -> None:
    """A node has the name of its workload, without Kubernetes' suffixes except for an ordinal."""
    assert enrolled(pod).name == name


@pytest.mark.parametrize("length", range(30, 70))
def test_a_long_deployments_name_is_cut_as_kubernetes_cuts(length: int) -> None:
    """Kubernetes cuts a generated name to 58 characters before the random part. The workload is found even if the hash is cut."""
    name = "n" * length
    pod = f"{name}-7b5d9c6f8-"[:58] + "x2c4z"
    assert enrolled(pod).name == name[:58]


@pytest.mark.parametrize(
    ("pod", "kind", "owner", "name"),
    [
        ("plex-7b5d9c6f8-x2c4z", "ReplicaSet", "plex-7b5d9c6f8", "plex"),
        ("plex-deployment-7b5d9c6f8-x2c4z", "ReplicaSet", "plex-deployment-7b5d9c6f8", "plex"),
        ("web-x2c4z", "ReplicaSet", "web", "web"),
        ("web-1-x2c4z", "ReplicaSet", "web-1", "web-1"),
        ("web-x2c4z-24578", "DaemonSet", "web-x2c4z", "web-x2c4z"),
        ("web-x2c4z", "StatefulSet", "web", "web"),
        ("web-x2c4z-0", "StatefulSet", "web-x2c4z", "web-x2c4z-0"),
        ("web-24578", "StatefulSet", "web", "web-24578"),
        ("pg-statefulset-3", "StatefulSet", "pg-statefulset", "pg-3"),
        ("backup-28391820-x7k2p", "Job", "backup-28391820", "backup"),
        ("backup-28391820-3-x7k2p", "Job", "backup-28391820", "backup-3"),
        ("train-3-x7k2p", "Job", "train-3", "train-3"),
        ("train-3-7-x7k2p", "Job", "train-3", "train-3-7"),
        (f"{'n' * 55}-7-x7k2p", "Job", "n" * 60, f"{'n' * 60}-7"),
        ("etcd-node1", "Node", "node1", "etcd"),
        ("etcd-node1.example.com", "Node", "Node1.example.com", "etcd"),
        ("etcd-node1", "Node", "node2", "etcd-node1"),
        ("kafka-pool-2", "StrimziPodSet", "kafka-pool", "kafka-pool-2"),
        ("virt-launcher-vm-x2c4z", "VirtualMachineInstance", "vm", "vm"),
    ],
)
def test_an_owner_knows_better(pod: str, kind: str, owner: str, name: str) -> None:
    """If a pod's owner is known, the workload's name is the owner's."""
    settings = host(enroll="all")
    intent = policy.decide(settings, namespace="a", pod=pod, annotations={}, owner=lambda: Owner(kind, owner))
    assert intent
    assert intent.name == name


@pytest.mark.parametrize(
    ("template", "pod", "name"),
    [
        ("{workload}", "postgres-0", "postgres-0"),
        ("{namespace}-{workload}", "postgres-0", "media-postgres-0"),
        ("{workload}-{cluster}", "postgres-0", "postgres-0-home"),
        ("k8s-{cluster}-{workload}", "plex-7b5d9c6f8-x2c4z", "k8s-home-plex"),
        ("{pod}", "plex-7b5d9c6f8-x2c4z", "plex-7b5d9c6f8-x2c4z"),
        ("{pod}-{namespace}", "postgres-0", "postgres-0-media"),
    ],
)
def test_a_template_names_nodes(template: str, pod: str, name: str) -> None:
    """A hostnameTemplate can contain the namespace, the cluster and the pod's full name."""
    settings = {"hostnameTemplate": template, "clusterName": "home"}
    assert enrolled(pod, namespace="media", settings=settings).name == name


TEMPLATES = st.sampled_from(
    [
        "{workload}",
        "{pod}",
        "{cluster}-{namespace}-{pod}",
        "{namespace}-{workload}-x",
        "-{workload}{pod}-",
        f"{'l' * 40}{{workload}}{{pod}}",
    ]
)
NAME = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", fullmatch=True)


@PROPERTY
@given(TEMPLATES, st.text(max_size=300), st.text(max_size=100), st.text(max_size=100))
def test_whatever_names_there_are_a_hostname_is_a_label(
    template: str, pod: str, namespace: str, cluster: str
) -> None:
    """The hostname is a DNS label for any names, even for names that Kubernetes does not allow."""
    workload = hostname.workload(pod)
    assert is_label(hostname.render(template, workload, namespace=namespace, pod=pod, cluster=cluster))


@PROPERTY
@given(NAME, st.sampled_from(["ReplicaSet", "Job", "Node", "StatefulSet", "Other"]), NAME)
def test_whatever_owner_there_is_a_hostname_is_a_label(pod: str, kind: str, owner: str) -> None:
    """The hostname is a DNS label for any owner, even if the owner's name is not part of the pod's."""
    workload = hostname.workload(pod, Owner(kind, owner))
    assert is_label(hostname.render("{workload}", workload, namespace="a", pod=pod, cluster=""))


@PROPERTY
@given(TEMPLATES, NAME, st.lists(st.integers(0, 9999), min_size=2, max_size=2, unique=True))
def test_two_ordinals_are_two_names(template: str, name: str, ordinals: list[int]) -> None:
    """Two ordinals of a StatefulSet have two hostnames, however long its name and the template are."""
    pods = [f"{name}-{ordinal}" for ordinal in ordinals]
    names = {
        hostname.render(template, hostname.workload(pod), namespace="n" * 63, pod=pod, cluster="c" * 63)
        for pod in pods
    }
    assert len(names) == 2


@pytest.mark.parametrize(
    ("settings", "key", "expected"),
    [
        ({"namespaces": {"a": {"tailscale.com/tag": "tag:a"}}}, "namespaces.a", "tailscale.com/tags"),
        ({"namespaces": {"a": {"enabled": "true"}}}, "namespaces.a", "tailscale.com/enabled"),
        (
            {"namespaces": {"a": {"tailscale.com/enabled": "yes"}}},
            "namespaces.a.tailscale.com/enabled",
            "true",
        ),
        ({"namespaces": {"a": {"tailscale.com/ssh": "true"}}}, "not supported by this version", ""),
        ({"permissions": {"a": {"features": ["funel"]}}}, "permissions.a.features: 'funel'", "funnel"),
        ({"permissions": {"a": {"features": ["tags"]}}}, "permissions.a.features: 'tags'", ""),
    ],
)
def test_what_no_pod_could_have_is_no_configuration(
    settings: dict[str, Any], key: str, expected: str
) -> None:
    """An unknown annotation or feature in the host's configuration is an error, which suggests the most similar one."""
    with pytest.raises(errors.InvalidConfiguration) as caught:
        host(**settings)
    assert key in str(caught.value)
    assert expected in caught.value.advice


def test_the_line_to_paste_is_one_line_of_yaml() -> None:
    """The line to paste is valid YAML even for namespaces whose names YAML reads as other types."""
    for namespace in ("null", "on", "123", "1e3", "a"):
        with pytest.raises(errors.NotPermitted) as caught:
            decide(enabled="true", namespace=namespace, tags="tag:x")
        line = caught.value.advice.split("'")[1]
        assert yaml.safe_load(line) == json.loads(
            json.dumps({"permissions": {namespace: {"tags": ["tag:x"]}}})
        )
