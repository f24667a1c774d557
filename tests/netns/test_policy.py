"""What a pod should be: by its host, its namespace and itself, on the built artefact."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.runtime import CNIError, Pod


def configure(host: Host, **settings: Any) -> None:
    """Change config.yaml; all is in it, as ``install`` leaves a host: then the fast path answers for pods that are not enrolled."""
    file = host.root / "config.yaml"
    moved = {key: host.config[key] for key in ("controlURL", "authKeyFile", "launcher") if key in host.config}
    there = yaml.safe_load(file.read_text()) if file.exists() else {}
    file.write_text(yaml.safe_dump(there | moved | settings), encoding="utf-8")
    host.configure(**dict.fromkeys(moved))


def test_a_namespace_speaks_for_its_pods(host: Host, control: ControlPlane) -> None:
    """In a namespace that the host enrols, a pod that says nothing is a node, one that says no is none, and elsewhere neither."""
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


def test_the_door_goes_on_when_a_namespace_is_enrolled_later(host: Host) -> None:
    """A host that passed a pod through makes a node of the next one as soon as its configuration says so."""
    configure(host)
    host.addresses(host.start(Pod.enrolled("first")))
    host.start(Pod("before", namespace="media"))
    assert len(host.nodes()) == 2
    configure(host, namespaces={"media": {"tailscale.com/enabled": True}})
    host.addresses(host.start(Pod("after", namespace="media")))
    assert len(host.nodes()) == 4


def test_a_pod_overrides_its_namespace(host: Host, control: ControlPlane) -> None:
    """The namespace's default holds where the pod says nothing, and the pod's word where it does."""
    host.configure(namespaces={"media": {"tailscale.com/hostname": "by-namespace"}})
    addresses = host.addresses(host.start(Pod.enrolled("silent", namespace="media")))
    node = control.node("by-namespace")
    assert node
    assert node["addresses"] == addresses
    host.addresses(host.start(Pod.enrolled("speaks", namespace="media", hostname="by-pod")))
    assert control.node("by-pod")


def test_a_node_has_the_tags_that_its_pod_asks_for(host: Host, control: ControlPlane) -> None:
    """Tags that are permitted are the node's, at the control plane and in ``status``."""
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
            ["pod media/wish", "tag:db", "the static auth key gives it tag:k8s-pod", "autoNamespaceTag"],
        ),
        (
            {"autoNamespaceTag": True},
            {},
            121,
            ["the node should have the tags tag:k8s-pod, tag:ns-media"],
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
    """What a person reads names pod, annotation, value and the setting that decides; nothing of the pod is left."""
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
    """A pod that asked for too much starts when an admin has put into the configuration what the error said."""
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
    """A node that is there is sound, whatever the configuration has become; the next pod meets it."""
    configure(host)
    pod = host.start(Pod.enrolled("there"))
    host.addresses(pod)
    configure(host, **settings)
    host.runtime.check(pod)
    with pytest.raises(CNIError):
        host.start(Pod.enrolled("next"))


def test_a_hostname_has_a_template(host: Host, control: ControlPlane) -> None:
    """Namespace and cluster stand in a node's name where the host says so."""
    configure(host, hostnameTemplate="{cluster}-{namespace}-{workload}", clusterName="home")
    host.addresses(host.start(Pod.enrolled("postgres-statefulset-0", namespace="db")))
    assert control.node("home-db-postgres-0")


def test_config_show_of_the_artefact(host: Host) -> None:
    """The command is in the artefact and says what the next pod would get."""
    shown = json.loads(host.command("config", "show", "--state-dir", str(host.state_dir), "-o", "json"))
    assert shown["settings"]["authKeyTTL"] == {"value": "10m", "from": "default"}
