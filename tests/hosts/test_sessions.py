"""A node on a host without systemd. Its supervisor is a detached session leader."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from tests.kit.process import Process
from tests.kit.runtime import Pod
from tests.kit.wait import wait_until

from .machine import CGROUPS, PlainHost, UnifiedPlainHost
from .podhost import RUN, PodHost


def test_a_node_is_a_session_of_its_own(plain: PodHost) -> None:
    """The supervisor leads a session, is a child of PID 1, has no special OOM score, and logs to a file of root."""
    web = plain.start(Pod.enrolled("web"))
    plain.running(web)
    supervisor = plain.supervisor(web)
    assert supervisor.status["NSsid"].split()[-1] == supervisor.status["NSpid"].split()[-1]
    parent = Process.of(supervisor.parent)
    assert parent and parent.status["NSpid"].split()[-1] == "1"
    assert Path(f"/proc/{supervisor.pid}/oom_score_adj").read_text().strip() == "0"
    log = plain.host.file(f"{RUN}/{plain.id(web)}/log")
    assert (log.mode, log.user) == (0o600, "root")


@pytest.mark.parametrize("kind", [PlainHost, UnifiedPlainHost])
def test_a_node_has_a_control_group_of_its_own(podhost: PodHost) -> None:
    """Supervisor and worker have their own control group with limits. They neither count to nor end with the runtime's group."""
    web = podhost.start(Pod.enrolled("web"))
    group = f"/tailscale-cni/{podhost.id(web)}"
    for process in (podhost.supervisor(web), podhost.worker(web)):
        groups = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
        assert [line for line in groups if line.endswith(group)]
    bounded = [d for d in podhost.host.cgroups() if str(d).endswith(group) and "pids" in controllers(d)]
    assert {(directory / "pids.max").read_text().strip() for directory in bounded} <= {"256"}
    assert bounded or podhost.host.attempt("sh", "-c", CAN_BOUND).returncode
    podhost.call("DEL", web)
    assert not podhost.leftovers()


@pytest.mark.parametrize("kind", [PlainHost, UnifiedPlainHost])
def test_the_control_group_of_a_reaped_node_goes_too(podhost: PodHost) -> None:
    """When a node ends because its pod is gone, its control group is removed too."""
    web = podhost.start(Pod.enrolled("web"))
    podhost.running(web)
    web.netns.close()
    wait_until(lambda: not podhost.leftovers(), what="the end of everything of a pod that is gone")


CAN_BOUND = "[ -w /sys/fs/cgroup/pids ] || grep -w pids /sys/fs/cgroup/cgroup.controllers"


def controllers(group: Path) -> set[str]:
    """The controllers of a control group. In cgroup v1 each controller has its own tree."""
    unified = group / "cgroup.controllers"
    return set(unified.read_text().split()) if unified.exists() else {group.relative_to(CGROUPS).parts[0]}


def test_a_dead_supervisor_is_replaced_at_the_next_call_for_an_enrolled_pod(plain: PodHost) -> None:
    """After SIGKILL of the supervisor the worker ends too. The next ADD of an enrolled pod starts the same node again."""
    web = plain.start(Pod.enrolled("web"))
    before, worker, supervisor = plain.running(web), plain.worker(web), plain.supervisor(web)
    supervisor.kill()
    wait_until(lambda: not worker.alive, what="the end of the worker without a supervisor")
    plain.start(Pod("bystander"))
    assert not plain.host.called("worker")
    plain.start(Pod.enrolled("db"))
    assert plain.running(web)["addresses"] == before["addresses"]


def test_the_runtime_does_not_wait_for_descriptors_that_a_node_inherited(plain: PodHost) -> None:
    """After ADD has answered, no process holds a descriptor that ADD inherited."""
    web = plain.start(Pod.enrolled("web"))
    plain.supervisor(web).kill()
    wait_until(lambda: not plain.of_the_product(), what="the end of the node's processes")
    reading, writing = os.pipe()
    try:
        result = plain.add_alone(web, pass_fds=[writing])
        os.close(writing)
        assert result.returncode == 0
        assert plain.worker(web)
        assert select.select([reading], [], [], 0)[0]
        assert os.read(reading, 1) == b""
    finally:
        os.close(reading)
