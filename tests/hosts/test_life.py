"""From ``install`` to ``uninstall`` on a host's own paths, with systemd and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit import tools, traffic
from tests.kit.peer import Peer
from tests.kit.runtime import Pod
from tests.kit.wait import wait_until

from .machine import PlainHost
from .podhost import (
    ARTEFACT,
    BINARY,
    CONFIG,
    KEY,
    LISTS,
    OURS,
    PLUGINS,
    PRIMARY,
    PRIMARY_LIST,
    RUN,
    STATE,
    PodHost,
)

OTHER = "/root/another-version"


def everything(podhost: PodHost) -> dict[str, str]:
    """The files and directories of an installation, by path, with inode, mode, owner, size and time of change.

    Python compiles the modules of the unpacked build on first use, so these files are left out.
    """
    tops = [LISTS, PLUGINS, CONFIG, STATE, RUN]
    lines = podhost.host.run("find", *tops, "-printf", "%p\t%i %m %U %G %s %C@\n").splitlines()
    return dict(line.split("\t") for line in lines if "/site-packages/" not in line)


def test_install_puts_everything_in_its_place(podhost: PodHost) -> None:
    """``install`` writes each file with the right mode. Its list sorts first and is the primary CNI's list plus our entry."""
    host = podhost.host
    for path, mode in {
        BINARY: 0o755,
        f"{CONFIG}/authkey": 0o600,
        f"{CONFIG}/config.yaml": 0o644,
        OURS: 0o644,
        STATE: 0o711,
    }.items():
        assert (path, oct(host.file(path).mode), host.file(path).user) == (path, oct(mode), "root")
    assert host.file(RUN).mode == 0o700
    assert host.file(f"{CONFIG}/authkey").content_string.strip() == host.file(KEY).content_string.strip()
    assert podhost.is_installed()
    assert podhost.lists() == [OURS, PRIMARY]
    assert json.loads(host.file(PRIMARY).content_string) == PRIMARY_LIST
    ours = json.loads(host.file(OURS).content_string)
    entry = ours["plugins"].pop()
    assert ours == PRIMARY_LIST
    assert entry == {"type": "tailscale-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": True}}


def test_install_again_changes_nothing(podhost: PodHost) -> None:
    """A second ``install`` changes no file, so no runtime reloads its lists."""
    before = everything(podhost)
    podhost.install()
    after = everything(podhost)
    assert [path for path in after if after[path] != before.get(path)] == []
    assert after.keys() == before.keys()


@pytest.mark.parametrize("kind", [PlainHost])
def test_install_refuses_a_key_that_others_can_read(bare: PodHost) -> None:
    """``install`` refuses a key file that others can read, names the command that fixes the mode, and installs nothing."""
    bare.host.run("chmod", "644", KEY)
    refused = bare.host.attempt(ARTEFACT, "install", "--auth-key-file", KEY)
    assert refused.returncode == 1
    assert f"chmod 600 {KEY}" in refused.stderr.decode()
    assert bare.lists() == [PRIMARY]
    assert not bare.host.file(BINARY).exists


@pytest.mark.parametrize("kind", [PlainHost])
def test_install_wants_a_primary_network(bare: PodHost) -> None:
    """Without a primary CNI's list, ``install`` installs nothing, because our plugin alone gives pods no network."""
    bare.host.run("rm", PRIMARY)
    refused = bare.host.attempt(ARTEFACT, "install", "--auth-key-file", KEY)
    assert refused.returncode == 1
    assert LISTS in refused.stderr.decode()
    assert bare.lists() == []
    assert not bare.host.file(BINARY).exists


def test_install_replaces_a_binary_that_is_running(podhost: PodHost) -> None:
    """``install`` replaces another file of the same build by rename. The running nodes continue."""
    web = podhost.start(Pod.enrolled("web"))
    worker = podhost.worker(web)
    podhost.host.run("sh", "-c", f"printf '# an older build' >> {BINARY}")
    inode = podhost.host.run("stat", "--format=%i", BINARY)
    podhost.install()
    assert podhost.is_installed()
    assert podhost.host.run("stat", "--format=%i", BINARY) != inode
    assert podhost.worker(web) == worker
    assert podhost.host.run("find", PLUGINS, LISTS, "-name", "*~") == ""


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row of ``status`` that do not change while the pod exists."""
    return {key: row[key] for key in ("name", "addresses", "tags", "port", "id")}


def test_install_upgrades_the_nodes_that_run(podhost: PodHost, tmp_path: Path) -> None:
    """``install`` upgrades running nodes; nodes and open connections survive. With ``--no-upgrade`` the workers stay."""
    podhost.host.write(BINARY, tools.other_build(1), "755")
    pods = web, user = [podhost.start(Pod.enrolled(name)) for name in ("web", "user")]
    rows = [podhost.running(pod) for pod in pods]
    supervisors, workers = ([of(pod) for pod in pods] for of in (podhost.supervisor, podhost.worker))
    podhost.install("--no-upgrade")
    assert [podhost.worker(pod) for pod in pods] == workers
    podhost.host.write(OTHER, tools.other_build(2), "755")
    refused = podhost.host.attempt(OTHER, "upgrade")
    assert refused.returncode == 1
    assert f"its node is started by {BINARY}, which is another version" in refused.stderr.decode()
    assert [podhost.worker(pod) for pod in pods] == workers
    with (
        traffic.echo_server(web.netns, tmp_path / "echo"),
        traffic.Conversation(user.netns, tmp_path / "talk", rows[0]["addresses"][0]) as conversation,
    ):
        conversation.say("before")
        assert conversation.heard_within(10) == "before"
        podhost.install()
        conversation.say("after")
        assert conversation.heard_within(10) == "after"
    upgraded = [podhost.worker(pod) for pod in pods]
    assert not set(upgraded) & set(workers)
    assert [podhost.supervisor(pod).pid for pod in pods] == [one.pid for one in supervisors]
    assert [lasting(podhost.running(pod)) for pod in pods] == [lasting(row) for row in rows]
    assert podhost.host.run("find", f"{STATE}/cache", "-maxdepth", "1", "-name", f"{1:020}") == ""
    podhost.install()
    assert [podhost.worker(pod) for pod in pods] == upgraded, "they have this version"


def test_a_pod_is_reached_by_name_from_another_machine(podhost: PodHost, peer: Peer, tmp_path: Path) -> None:
    """After ``install`` a peer opens a page of an annotated pod by name. A pod without the annotation has no ``ts0``."""
    web, plain = podhost.start(Pod.enrolled("web", hostname="shop")), podhost.start(Pod("plain"))
    row = podhost.running(web)
    assert row["name"].startswith("shop.")
    with traffic.web_server(web.netns, tmp_path / "web", text="welcome"):
        page = peer.fetch(f"http://{row['name']}/")
    assert page == f"welcome {peer.addresses[0]}"
    assert plain.netns.links() == {"lo", "eth0"}
    podhost.call("DEL", web)


def test_status_shows_the_hosts_nodes(podhost: PodHost) -> None:
    """``status`` prints a row per node. The exit status is 0 while all nodes are Running, otherwise 1."""
    none = podhost.host.attempt(BINARY, "status")
    assert (none.returncode, none.stdout) == (0, b"No pod on this host is a node.\n")
    web = podhost.start(Pod.enrolled("web", namespace="shop"))
    row = podhost.running(web)
    table = podhost.host.attempt(BINARY, "status")
    header, line = table.stdout.decode().splitlines()
    assert header.split()[:5] == ["NAMESPACE", "POD", "NAME", "IP", "STATE"]
    assert line.split()[:5] == ["shop", "web", row["name"], ",".join(row["addresses"]), "Running"]
    assert table.returncode == 0
    with podhost.paused(podhost.worker(web)):
        broken = podhost.host.attempt(BINARY, "status", "--output=json")
        assert broken.returncode == 1
        assert [item["state"] for item in json.loads(broken.stdout)["items"]] == ["NotAnswering"]


def test_a_dead_worker_is_replaced(podhost: PodHost) -> None:
    """After SIGKILL of the worker a new worker runs the same node."""
    web = podhost.start(Pod.enrolled("web"))
    before, worker = podhost.running(web), podhost.worker(web)
    node = podhost.node(before)
    worker.kill()
    assert podhost.worker(web) != worker
    assert podhost.running(web)["addresses"] == before["addresses"]
    now = podhost.node(before)
    assert now and node and now["nodeKey"] == node["nodeKey"]


def test_del_leaves_nothing(podhost: PodHost) -> None:
    """DEL of the last pod leaves nothing on the host or in the tailnet. A second and a third DEL succeed too."""
    web = podhost.start(Pod.enrolled("web"))
    row = podhost.running(web)
    for _ in range(3):
        podhost.call("DEL", web)
        assert not podhost.leftovers()
    assert not podhost.node(row)


def test_a_pod_whose_namespace_vanishes_is_reaped(podhost: PodHost) -> None:
    """If a namespace is removed without DEL, its node logs out and ends. Nothing is left, not even a veth."""
    web = podhost.start(Pod.enrolled("web"))
    row = podhost.running(web)
    web.netns.close()
    wait_until(lambda: not podhost.leftovers(), what="the end of everything of a pod that is gone")
    assert not podhost.node(row)
    podhost.call("DEL", web, netns="")


def test_after_a_reboot_del_needs_no_namespace(podhost: PodHost) -> None:
    """After a power cut, a DEL without a namespace removes everything of the pod."""
    web = podhost.start(Pod.enrolled("web"))
    podhost.running(web)
    podhost.reboot()
    assert not podhost.of_the_product()
    podhost.call("DEL", web, netns="")
    assert not podhost.leftovers()


def test_after_a_reboot_the_next_enrolled_pod_cleans_up(podhost: PodHost) -> None:
    """After a power cut, the next ADD of an enrolled pod removes what the earlier pods left."""
    for name in ("one", "two"):
        podhost.running(podhost.start(Pod.enrolled(name)))
    podhost.reboot()
    three = podhost.start(Pod.enrolled("three"))
    podhost.running(three)
    assert podhost.status().keys() == {"three"}
    podhost.call("DEL", three)
    assert not podhost.leftovers()


def test_after_a_reboot_gc_cleans_up(podhost: PodHost) -> None:
    """After a power cut, GC without a valid attachment removes everything that was left."""
    podhost.running(podhost.start(Pod.enrolled("web")))
    podhost.reboot()
    podhost.call("GC", validAttachments=[])
    assert not podhost.leftovers()


def test_install_names_pods_that_are_too_early(bare: PodHost) -> None:
    """``install`` names exactly the annotated pods that run and are not nodes. Pods that ended or restarted are not named."""
    early, plain, ended = (
        bare.start(pod) for pod in (Pod.enrolled("early"), Pod("plain"), Pod.enrolled("ended"))
    )
    bare.call("DEL", ended)

    def install() -> str:
        urls = ("--control-url", bare.control.url, "--auth-key-file", KEY)
        return bare.host.attempt(ARTEFACT, "install", *urls).stderr.decode()

    assert "restart these pods to make them nodes: default/early\n" in install()
    bare.call("DEL", early)
    again = bare.start(Pod.enrolled("early"))
    bare.running(again)
    assert "restart these pods" not in install()
    assert plain.netns.links() == {"lo", "eth0"}


def test_uninstall_gives_the_primary_network_back(podhost: PodHost) -> None:
    """``uninstall`` ends the nodes and removes our files. Pods keep the primary's address, and new pods get its network."""
    web = podhost.start(Pod.enrolled("web"))
    row = podhost.running(web)
    addresses = set(web.interface("eth0").addresses)
    podhost.host.run(BINARY, "uninstall")
    assert [left for left in podhost.leftovers() if not left.startswith("interface veth")] == []
    assert not podhost.node(row)
    assert web.netns.links() == {"lo", "eth0"}
    assert set(web.interface("eth0").addresses) == addresses
    assert podhost.lists() == [PRIMARY]
    assert json.loads(podhost.host.file(PRIMARY).content_string) == PRIMARY_LIST
    for path in (BINARY, STATE, RUN):
        assert not podhost.host.file(path).exists
    assert podhost.host.file(f"{CONFIG}/authkey").exists
    after = podhost.start(Pod.enrolled("after"))
    assert after.netns.links() == {"lo", "eth0"}
    for sandbox in (web, after):
        podhost.call("DEL", sandbox)
    assert podhost.host.netns.links() == {"lo", "eth0", "cni0"}


def test_uninstall_can_take_the_configuration_too(podhost: PodHost) -> None:
    """``uninstall --purge`` also removes the configuration. A second run is no error."""
    for _ in range(2):
        podhost.host.run(ARTEFACT, "uninstall", "--purge")
        for path in (BINARY, STATE, RUN, CONFIG, OURS):
            assert not podhost.host.file(path).exists
