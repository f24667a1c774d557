"""How host, namespace and pod decide what a pod's node is, on the built artefact."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.runtime import CNIError, Pod


def configure(host: Host, **settings: Any) -> None:
    """Change config.yaml. It has all settings, as after ``install``, so the fast path answers for pods that are not enrolled."""
    file = host.root / "config.yaml"
    moved = {key: host.config[key] for key in ("controlURL", "authKeyFile", "launcher") if key in host.config}
    there = yaml.safe_load(file.read_text()) if file.exists() else {}
    file.write_text(yaml.safe_dump(there | moved | settings), encoding="utf-8")
    host.configure(**dict.fromkeys(moved))


def test_a_namespace_speaks_for_its_pods(host: Host, control: ControlPlane) -> None:
    """In an enrolled namespace, a pod becomes a node unless its annotation declines. Elsewhere it needs the annotation."""
    quiet = {"media": {"tailscale.com/enabled": "true"}, "scratch": {"tailscale.com/enabled": "false"}}
    configure(host, namespaces=quiet)
    host.addresses(host.start(Pod.enrolled("asks", namespace="scratch")))
    for namespace in ("scratch", "default"):
        host.start(Pod("silent", namespace=namespace))
    noted = json.loads((host.state_dir / "enroll.json").read_text())
    assert noted["enroll"] == "namespaces"
    host.addresses(host.start(Pod("speaks-0", namespace="media")))
    assert control.node("speaks-0")
    host.start(Pod("not", namespace="media", annotations={"tailscale.com/enabled": "false"}))
    assert len(host.nodes()) == 4


def test_the_fast_path_goes_on_when_a_namespace_is_enrolled_later(host: Host) -> None:
    """After a namespace is enrolled in config.yaml, its next pod becomes a node, even if the host passed earlier pods through."""
    configure(host)
    host.addresses(host.start(Pod.enrolled("first")))
    host.start(Pod("before", namespace="media"))
    assert len(host.nodes()) == 2
    configure(host, namespaces={"media": {"tailscale.com/enabled": True}})
    host.addresses(host.start(Pod("after", namespace="media")))
    assert len(host.nodes()) == 4


def test_a_pod_overrides_its_namespace(host: Host, control: ControlPlane) -> None:
    """A pod's annotation overrides its namespace's default."""
    host.configure(namespaces={"media": {"tailscale.com/hostname": "by-namespace"}})
    addresses = host.addresses(host.start(Pod.enrolled("silent", namespace="media")))
    node = control.node("by-namespace")
    assert node
    assert node["addresses"] == addresses
    host.addresses(host.start(Pod.enrolled("speaks", namespace="media", hostname="by-pod")))
    assert control.node("by-pod")


def test_a_node_has_the_tags_that_its_pod_asks_for(host: Host, control: ControlPlane) -> None:
    """A node has the permitted tags that its pod asks for, at the control plane and in ``status``."""
    tags = ["tag:k8s-pod", "tag:web"]
    host.set_key(control.mint(tags=tags).key)
    host.configure(tags=tags)
    host.addresses(host.start(Pod.enrolled("tagged", tags="tag:web,tag:k8s-pod")))
    node = control.node("tagged")
    assert node
    assert sorted(node["tags"]) == tags
    status = json.loads(host.command("status", "--state-dir", str(host.state_dir), "-o", "json"))
    assert sorted(status["items"][0]["tags"]) == tags


@pytest.mark.parametrize(
    ("settings", "wishes", "code", "said"),
    [
        (
            {},
            {"tags": "tag:k8s-pod,tag:db"},
            120,
            [
                "pod media/wish: annotation tailscale.com/tags='tag:k8s-pod,tag:db' is not permitted",
                "pods of namespace media may not ask for tag:db",
                'permissions: {"media": {"tags": ["tag:db"]}}',
            ],
        ),
        (
            {"permissions": {"media": "none"}},
            {},
            120,
            ["tailscale.com/enabled='true'", "may not ask for enabled", '"features": ["enabled"]'],
        ),
        (
            {"permissions": {"*": "all"}},
            {"tags": "tag:db"},
            121,
            ["pod media/wish", "tag:db", "the static auth key assigns tag:k8s-pod", "autoNamespaceTag"],
        ),
        (
            {"autoNamespaceTag": True},
            {},
            121,
            ["the node cannot have the tags tag:k8s-pod, tag:ns-media"],
        ),
        (
            {"permissions": {"*": "all"}},
            {"ssh": "true"},
            102,
            ["tailscale.com/ssh='true' is not supported"],
        ),
        ({}, {"tags": "db\n"}, 101, [r"tailscale.com/tags='db\n' is not valid", "as in tag:web,tag:public"]),
    ],
    ids=["tag", "none", "static key", "namespace tag", "not yet", "odd"],
)
def test_a_wish_that_is_refused_is_named(
    host: Host, settings: dict[str, Any], wishes: dict[str, str], code: int, said: list[str]
) -> None:
    """The error of a refused annotation names pod, annotation, value and the setting that decides. Nothing of the pod is left."""
    configure(host, **settings)
    sandbox = host.sandbox(Pod.enrolled("wish", namespace="media", **wishes))
    previous = host.runtime.add_primary(sandbox)
    with pytest.raises(CNIError) as error:
        host.runtime.chained("ADD", sandbox, prevResult=previous)
    text = f"{error.value.msg}; {error.value.details}"
    assert error.value.code == code
    assert [part for part in said if part not in text] == []
    assert text.isprintable()
    assert host.processes() == []
    assert host.files() == []


def test_the_line_that_an_error_names_lets_the_pod_start(host: Host, control: ControlPlane) -> None:
    """A pod without permission starts after an admin adds the line from the error to the configuration."""
    rows: dict[str, Any] = {"*": {"features": []}}
    configure(host, permissions=rows)
    pod = host.sandbox(Pod.enrolled("anything", namespace="media", hostname="chosen"))
    previous = host.runtime.add_primary(pod)
    with pytest.raises(CNIError, match="may not ask for hostname") as error:
        host.runtime.chained("ADD", pod, prevResult=previous)
    line = error.value.details.split("'")[1].removesuffix(" (below permissions)")
    configure(host, permissions=rows | yaml.safe_load(f"{{{line}}}"))
    host.runtime.chained("ADD", pod, prevResult=previous)
    host.addresses(pod)
    assert control.node("chosen")


@pytest.mark.parametrize("settings", [{"permissions": {"*": "none"}}, {"unheard-of": True}])
def test_check_does_not_ask_what_is_permitted_now(host: Host, settings: dict[str, Any]) -> None:
    """CHECK of a running node passes even if the configuration now forbids it or is invalid. The next pod's ADD fails."""
    configure(host)
    pod = host.start(Pod.enrolled("there"))
    host.addresses(pod)
    configure(host, **settings)
    host.runtime.check(pod)
    with pytest.raises(CNIError):
        host.start(Pod.enrolled("next"))


def test_a_hostname_has_a_template(host: Host, control: ControlPlane) -> None:
    """``hostnameTemplate`` can put namespace and cluster into a node's hostname."""
    configure(host, hostnameTemplate="{cluster}-{namespace}-{workload}", clusterName="home")
    host.addresses(host.start(Pod.enrolled("postgres-statefulset-0", namespace="db")))
    assert control.node("home-db-postgres-0")


def test_config_show_of_the_artefact(host: Host) -> None:
    """``config show`` of the artefact prints the settings that the next pod would get."""
    shown = json.loads(host.command("config", "show", "--state-dir", str(host.state_dir), "-o", "json"))
    assert shown["settings"]["authKeyTTL"] == {"value": "10m", "from": "default"}
