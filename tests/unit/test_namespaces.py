"""Annotations of namespaces and owners of pods: from the API, through the host's records, to a pod's intent."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailscale_cni import errors, linux
from tailscale_cni.cni import request
from tailscale_cni.node.resolve import Resolution, resolve
from tailscale_cni.state import namespaces
from tailscale_cni.state.namespaces import Known, Namespaces
from tests.kit.wait import wait_until

from .cni_call import ROOT, config, environ, run
from .kubernetes import ApiServer, kubeconfig

ENABLED = "tailscale.com/enabled"
SETTLED = {"tailscale.com/hostname": "tv", "tailscale.com/ephemeral": "true"}
"""With these annotations, a pod's owner need not be known."""
UID = "0a4ce9e4-6a0a-4a5c-9d21-9a5f7a0c8b11"


class Cluster:
    """A host of a cluster with an API server, and calls for its pods."""

    def __init__(self, root: Path) -> None:
        self.api = ApiServer()
        self.root = root
        self.state_dir = root / "state"
        self.kubeconfig = kubeconfig(root / "kubeconfig", self.api.url)
        self.warnings: list[str] = []
        self.settings: dict[str, Any] = {"kubeconfig": str(self.kubeconfig), "permissions": {"*": "all"}}

    def wish(
        self, annotations: Mapping[str, str] = {}, namespace: str = "media", pod: str = "plex-0"
    ) -> Resolution:
        """Returns what an ADD resolves for a pod with these annotations. The warnings of the call are in ``warnings``."""
        file = self.root / "config.yaml"
        file.write_text(yaml.safe_dump(self.settings), encoding="utf-8")
        entry = config(
            configFile=str(file),
            stateDir=str(self.state_dir),
            runtimeConfig={request.ANNOTATIONS: dict(annotations)},
        )
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_UID={UID}"
        asked = request.parse(environ(ARGS=args), json.dumps(entry).encode())
        self.warnings = []
        return resolve(asked._replace(warn=self.warnings.append))

    def enrolls(self, annotations: Mapping[str, str] = {}, **pod: str) -> bool:
        """Returns whether the pod becomes a node."""
        return self.wish(annotations, **pod).intent is not None

    @property
    def known(self) -> Namespaces:
        """The host's records of namespaces."""
        return Namespaces(str(self.state_dir))

    def grow_old(self, name: str = "media") -> None:
        """Make the record of a namespace stale."""
        file = self.state_dir / "namespaces" / f"{name}.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(document | {"asked": 0, "until": 0}), encoding="utf-8")

    def renewed(self, name: str = "media") -> None:
        """Wait until the record of a namespace is fresh."""
        wait_until(lambda: self.known.get(name).is_fresh, what=f"news of {name}")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with the namespace media and nothing else."""
    cluster = Cluster(tmp_path)
    cluster.api.namespace("media", {})
    yield cluster
    cluster.api.close()


def test_a_namespace_enrols_its_pods(cluster: Cluster) -> None:
    """The first pod of a namespace waits for the API's answer, and is enrolled by the namespace's annotations."""
    cluster.api.namespace("media", {ENABLED: "true", **SETTLED, "other": "x"})
    intent = cluster.wish().intent
    assert intent
    assert intent.name == "tv"
    assert cluster.warnings == []
    kept = cluster.known.get("media")
    assert kept.annotations == {ENABLED: "true", **SETTLED}


def test_a_pod_has_the_last_word(cluster: Cluster) -> None:
    """A pod's annotations override those of its namespace one by one."""
    cluster.api.namespace("media", {ENABLED: "true", "tailscale.com/hostname": "tv"})
    assert not cluster.enrolls({ENABLED: "false"})
    intent = cluster.wish({"tailscale.com/hostname": "radio"}).intent
    assert intent
    assert intent.name == "radio"


def test_a_namespaces_wish_needs_permission(cluster: Cluster) -> None:
    """A namespace's annotations need permission, because users who can write pods can often write their namespace."""
    del cluster.settings["permissions"]
    cluster.api.namespace("media", {ENABLED: "true", "tailscale.com/tags": "tag:prod"})
    with pytest.raises(errors.NotPermitted, match=r"^namespace media: annotation tailscale.com/tags"):
        cluster.wish()


def test_only_the_first_pod_waits(cluster: Cluster) -> None:
    """Later pods of a namespace use the record, and the API is not asked again so soon."""
    assert not cluster.enrolls()
    cluster.api.namespace("media", {ENABLED: "true"})
    assert not cluster.enrolls()
    assert cluster.api.asked == ["/api/v1/namespaces/media"]


def test_what_is_old_is_used_and_renewed_meanwhile(cluster: Cluster) -> None:
    """A stale record is used and renewed in the background. The next pod uses the new record."""
    assert not cluster.enrolls()
    cluster.api.namespace("media", {ENABLED: "true"})
    cluster.grow_old()
    assert not cluster.enrolls()
    cluster.renewed()
    assert cluster.enrolls()


@pytest.mark.parametrize("down", ["refused", "forbidden", "gone"])
def test_an_api_that_is_down_changes_nothing(cluster: Cluster, down: str) -> None:
    """If the API fails, the last record stays in force. The log line says that it is stale, and why."""
    cluster.api.namespace("media", {ENABLED: "true"})
    assert cluster.enrolls(SETTLED)
    if down == "refused":
        cluster.api.close()
    else:
        cluster.api.objects["/api/v1/namespaces/media"] = 403 if down == "forbidden" else 404
    cluster.grow_old()
    assert cluster.enrolls(SETTLED)
    cluster.renewed()
    assert cluster.enrolls(SETTLED)
    (warning,) = cluster.warnings
    assert "namespace media" in warning
    assert {"refused": "Connection refused", "forbidden": "403", "gone": "namespace media does not exist"}[
        down
    ] in warning


@pytest.mark.parametrize("down", ["refused", "hanging", "no kubeconfig", "no disk"])
def test_without_an_answer_a_pod_is_what_else_says(cluster: Cluster, down: str) -> None:
    """Without an answer for a new namespace, a pod starts with its own annotations only."""
    if down == "refused":
        cluster.api.close()
    elif down == "hanging":
        cluster.api.hang.clear()
    elif down == "no kubeconfig":
        cluster.kubeconfig.unlink()
    else:
        cluster.state_dir.write_text("not a directory")
    assert not cluster.enrolls()
    assert len(cluster.warnings) == 1
    assert "namespace media" in cluster.warnings[0]
    assert cluster.enrolls({ENABLED: "true", "tailscale.com/hostname": "tv"})


def test_a_failure_is_waited_for_once(cluster: Cluster) -> None:
    """After a failed request, the next pods do not wait for the API again."""
    cluster.api.objects["/api/v1/namespaces/media"] = 500
    assert not cluster.enrolls()
    cluster.api.hang.clear()
    assert not cluster.enrolls()
    assert "500" in cluster.warnings[0]
    assert len(cluster.api.asked) == 1


@pytest.mark.parametrize("namespace", ["kube-system", "infra"])
def test_nobody_asks_about_an_excluded_namespace(cluster: Cluster, namespace: str) -> None:
    """The API is not asked about excluded namespaces, because it may need their pods. Nothing is recorded."""
    cluster.settings["excludeNamespaces"] = ["kube-system", "infra"]
    cluster.api.namespace(namespace, {ENABLED: "true"})
    assert not cluster.enrolls(namespace=namespace)
    assert cluster.enrolls({ENABLED: "true"}, namespace=namespace)
    assert cluster.api.asked == []
    assert cluster.warnings == []
    assert not cluster.state_dir.exists()


def test_nobody_asks_without_a_kubeconfig(cluster: Cluster) -> None:
    """Without a kubeconfig, which is the default, the API is not asked."""
    del cluster.settings["kubeconfig"]
    cluster.api.namespace("media", {ENABLED: "true"})
    assert not cluster.enrolls()
    assert cluster.enrolls({ENABLED: "true"})
    assert cluster.api.asked == []


@pytest.mark.parametrize(
    ("pod", "references", "name"),
    [
        ("my-dhcpd", [], "my-dhcpd"),
        ("my-dhcpd", [("DaemonSet", "my")], "my"),
        ("web-7b5d9c6f8-x2c4z", [("ReplicaSet", "web-7b5d9c6f8")], "web"),
        ("web-7b5d9c6f8", [("StatefulSet", "web")], "web"),
        ("db-3", [("StatefulSet", "db")], "db-3"),
    ],
)
def test_a_node_is_named_after_the_pods_owner(
    cluster: Cluster, pod: str, references: list[tuple[str, str]], name: str
) -> None:
    """A node is named after its pod's owner in the API, because the pod's name alone can only suggest the owner."""
    owners = [{"kind": kind, "name": owner, "controller": True} for kind, owner in references]
    cluster.api.pod("media", pod, uid=UID, ownerReferences=owners)
    intent = cluster.wish({ENABLED: "true"}, pod=pod).intent
    assert intent
    assert intent.name == name
    assert cluster.warnings == []


@pytest.mark.parametrize("down", ["refused", "missing", "another", "hanging"])
def test_a_nodes_name_does_not_need_the_api(cluster: Cluster, down: str) -> None:
    """Without an answer, the hostname is derived from the pod's name, and the log line says so."""
    cluster.enrolls()
    if down == "refused":
        cluster.api.close()
    elif down == "hanging":
        cluster.api.hang.clear()
    elif down == "another":
        cluster.api.pod("media", "web-x2c4z", uid="other", ownerReferences=[])
    intent = cluster.wish({ENABLED: "true"}, pod="web-x2c4z").intent
    assert intent
    assert intent.name == "web"
    (warning,) = cluster.warnings
    assert "the hostname is derived from the pod's name" in warning


def test_a_name_that_was_given_is_asked_of_nobody(cluster: Cluster) -> None:
    """The API is not asked for a pod's owner if the hostname is annotated or if the pod is not enrolled."""
    cluster.enrolls()
    cluster.wish({ENABLED: "true", **SETTLED})
    assert cluster.api.asked == ["/api/v1/namespaces/media"]


def test_files_are_roots_alone(cluster: Cluster) -> None:
    """Only root can read the records of namespaces, because annotations can be confidential."""
    cluster.enrolls()
    directory = cluster.state_dir / "namespaces"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == ["media.json"]
    assert stat.S_IMODE((directory / "media.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["..", "a/b", "A", "", "a.b", "-a"])
def test_a_name_that_is_none_is_no_path(tmp_path: Path, name: str) -> None:
    """An invalid name of a namespace is rejected, because it becomes part of a path."""
    with pytest.raises(ValueError, match=f"^{re.escape(name)}$"):
        Namespaces(str(tmp_path)).get(name)


@pytest.mark.parametrize(
    "change",
    [
        "",
        "{",
        "[]",
        {"version": 2},
        {"asked": "x"},
        {"annotations": [1]},
        {"annotations": {"a": 1}},
        {"failure": 1},
    ],
)
def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path, change: Any) -> None:
    """An unreadable record counts as missing and is written again."""
    store = Namespaces(str(tmp_path / "state"))
    store.renew("media", lambda: {"a": "b"}, wait=True)
    file = tmp_path / "state" / "namespaces" / "media.json"
    text = change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change)
    file.write_text(text, encoding="utf-8")
    assert store.get("media") == Known()
    store.renew("media", lambda: {"a": "b"}, wait=False)
    assert store.get("media").annotations == {"a": "b"}


def test_what_was_known_before_a_reboot_is_not_fresh(tmp_path: Path) -> None:
    """A record from before a reboot is stale, because the clock restarts."""
    for asked in (10**9, 0):
        assert not Known({}, asked, asked + namespaces.FRESH).is_fresh
    assert Known({}, int(time.monotonic()), int(time.monotonic()) + namespaces.FRESH).is_fresh


def test_one_asks_at_a_time(tmp_path: Path) -> None:
    """Only one process asks about a namespace. A caller that may wait uses that answer, and a caller that may not wait returns at once."""
    store, asked = Namespaces(str(tmp_path)), []
    begun, may_end = threading.Event(), threading.Event()

    def slowly() -> dict[str, str]:
        asked.append("slowly")
        begun.set()
        may_end.wait(20)
        return {"a": "b"}

    def never() -> dict[str, str]:
        raise AssertionError

    first = threading.Thread(target=store.renew, args=("media", slowly), kwargs={"wait": True})
    first.start()
    assert begun.wait(20)
    store.renew("media", never, wait=False)
    second = threading.Thread(target=store.renew, args=("media", never), kwargs={"wait": True})
    second.start()
    wait_until(lambda: second.is_alive() and _waits_for_a_lock(), what="the second one waiting")
    may_end.set()
    first.join(20)
    second.join(20)
    assert asked == ["slowly"]
    assert store.get("media").annotations == {"a": "b"}


def _waits_for_a_lock() -> bool:
    """Whether a thread of this process waits for a file lock: ``->`` in /proc/locks."""
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any("->" in line and f" {os.getpid()} " in line for line in lines)


def test_namespaces_that_came_and_went_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are too many records of namespaces, the oldest are removed."""
    monkeypatch.setattr(namespaces, "MOST", 4)
    store = Namespaces(str(tmp_path))
    for number in range(6):
        store.renew(f"n{number}", dict, wait=True)
        os.utime(tmp_path / "namespaces" / f"n{number}.json", ns=(number, number))
    left = {path.stem for path in (tmp_path / "namespaces").iterdir()}
    assert left == {"n3", "n4", "n5"}


def test_a_child_holds_nothing_of_ours(tmp_path: Path) -> None:
    """A detached child does not keep the call's output open."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    release = tmp_path / "release"

    def question() -> bytes:
        while not release.exists():
            time.sleep(0.01)  # noqa: TID251 - in another process
        return b""

    try:
        assert linux.run_bounded(question, 0, 30) is None
        os.close(writing)
        assert os.read(reading, 1) == b""
    finally:
        release.touch()
        os.close(reading)


def test_a_child_that_fails_is_no_answer() -> None:
    """A child that fails gives no answer. Empty and large answers are complete."""

    def fail() -> bytes:
        raise OSError

    assert linux.run_bounded(fail, 10, 10) is None
    assert linux.run_bounded(lambda: b"", 10, 10) == b""
    assert linux.run_bounded(lambda: b"x" * 60000, 10, 10) == b"x" * 60000


def test_an_add_does_not_import_it() -> None:
    """An ADD does not import the Kubernetes client, because the modules that it needs are slow to import."""
    script = "import sys, tailscale_cni.verbs.add; print(*sys.modules)"
    modules = run([sys.executable, "-c", script], b"", {"PYTHONPATH": str(ROOT)}).stdout.decode().split()
    assert "tailscale_cni.node.cluster" in modules
    assert not {"tailscale_cni.kube", "ssl", "http.client", "yaml"} & set(modules)
