"""Upgrades: another build is installed, and running nodes get its programs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit import tools, traffic
from tests.kit.host import Host
from tests.kit.peer import Peer
from tests.kit.process import Failed
from tests.kit.runtime import Pod, Sandbox
from tests.kit.wait import wait_until


def _upgrade(host: Host) -> str:
    """Run ``upgrade`` and return what it prints. Raises Failed."""
    done = host.netns.attempt(host.runtime.plugin, "upgrade", "--state-dir", host.state_dir)
    if done.returncode:
        raise Failed(done.stderr.decode())
    return done.stderr.decode()


def _builds(host: Host, pod: Sandbox) -> set[str]:
    """The builds of the node's programs: the names of the directories that they were unpacked to."""
    programs = (process.link("exe") for process in (host.supervisor(pod), host.worker(pod)))
    return {program.removeprefix(f"{host.state_dir}/cache/").partition("/")[0] for program in programs}


def _start(host: Host, name: str) -> Sandbox:
    """Start a pod and wait until it is on the tailnet."""
    pod = host.start(Pod.enrolled(name))
    wait_until(lambda: host.running(pod), what=f"{name} on the tailnet")
    return pod


def test_connections_outlive_an_upgrade(host: Host, peer: Peer) -> None:
    """An upgrade replaces both programs and removes the old build. Addresses, port and open connections of both sides survive."""
    pod = _start(host, "upgraded")
    before = host.addresses(pod), host.ports(pod), host.supervisor(pod).pid
    old = _builds(host, pod)
    wait_until(lambda: peer.resolve("upgraded"), what="the pod's name at the peer")
    with (
        traffic.echo_server(pod.netns, host.root / "echo.log"),
        traffic.echo_server(peer.netns, host.root / "echo-peer.log", port=17),
        traffic.Conversation(peer.netns, host.root / "talk.log", before[0][0]) as of_peer,
        traffic.Conversation(pod.netns, host.root / "talk-pod.log", peer.addresses[0], port=17) as of_pod,
        ThreadPoolExecutor(1) as pool,
    ):
        host.runtime.replace_plugin(tools.other_build(1))
        upgrading = pool.submit(_upgrade, host)
        while not upgrading.done():
            for conversation in (of_peer, of_pod):
                conversation.say("still there?")
                assert conversation.heard_within(10) == "still there?"
        assert upgrading.result() == "pod default/upgraded is upgraded (1 of 1)\n"
    assert (host.addresses(pod), host.ports(pod), host.supervisor(pod).pid) == before
    assert _builds(host, pod) == {f"{1:020}"}
    assert not [name for name in old if (host.state_dir / "cache" / name).exists()]
    worker = host.worker(pod)
    assert _upgrade(host) == "all nodes on this host have this version\n"
    assert host.worker(pod) == worker


@pytest.mark.long
@pytest.mark.parametrize("program", ["worker", "supervisor"])
def test_a_version_that_does_not_work_costs_one_node(host: Host, program: str) -> None:
    """If a node fails to reconnect, the upgrade stops and names it. The other node keeps its programs, even after a second try.

    Once the build works, the next ``upgrade`` upgrades all nodes and starts those that have ended.
    """
    pods = [_start(host, name) for name in ("first", "second")]
    old, workers = _builds(host, pods[0]), [host.worker(pod) for pod in pods]
    host.runtime.replace_plugin(tools.other_build(2))
    host.command("status", "--state-dir", str(host.state_dir))  # any command unpacks the build
    binary = host.state_dir / "cache" / f"{2:020}" / "site-packages" / "tailscale_cni" / "bin" / program
    good = binary.read_bytes()
    binary.write_bytes(b"#!/bin/false\n")
    for _ in range(2):
        with pytest.raises(Failed, match=r"default/(first|second): its node did not reconnect"):
            _upgrade(host)
        (kept,) = [pod for pod, worker in zip(pods, workers, strict=True) if worker.alive]
        assert _builds(host, kept) == old
    binary.write_bytes(good)
    wait_until(lambda: not _fails(host), what="an upgrade")
    assert [_builds(host, pod) for pod in pods] == [{f"{2:020}"}] * 2
    assert all(host.running(pod) for pod in pods)


def _fails(host: Host) -> int:
    return host.netns.attempt(host.runtime.plugin, "upgrade", "--state-dir", host.state_dir).returncode


def test_a_node_that_another_file_starts_is_left_alone(host: Host, tmp_path: Path) -> None:
    """``upgrade`` refuses a node that another file starts. The error names that file, and the node continues."""
    pod = _start(host, "elsewhere")
    worker = host.worker(pod)
    other = tmp_path / "tailscale-cni"
    other.write_bytes(tools.other_build(3))
    other.chmod(0o755)
    refused = host.netns.attempt(other, "upgrade", "--state-dir", host.state_dir)
    assert refused.returncode == 1
    assert (
        f"its node is started by {host.runtime.plugin}, which is another version" in refused.stderr.decode()
    )
    assert host.worker(pod) == worker
    assert _upgrade(host) == "all nodes on this host have this version\n"
