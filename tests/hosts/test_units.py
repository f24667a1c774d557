"""A node on a host with systemd: a transient unit in the plugin's slice."""

from __future__ import annotations

from pathlib import Path

from tests.kit.runtime import Pod
from tests.kit.wait import wait_until

from .machine import CGROUPS, SystemdHost
from .podhost import CONFIG, KEY, RUN, STATE, PodHost


def machine(podhost: PodHost) -> SystemdHost:
    """The underlying host, which must be a SystemdHost."""
    assert isinstance(podhost.host, SystemdHost)
    return podhost.host


def test_a_node_is_a_unit_that_systemctl_shows(systemd: PodHost) -> None:
    """A node's unit is named after the attachment, is in our slice, restarts on failure, and has limits."""
    web = systemd.start(Pod.enrolled("web"))
    systemd.running(web)
    unit = systemd.unit(web)
    assert systemd.host.service(unit).is_running
    shown = machine(systemd).show(unit)
    expected = {
        "Slice": "tailscale_cni.slice",
        "Transient": "yes",
        "Restart": "on-failure",
        "RestartUSec": "1s",
        "RestartPreventExitStatus": "0 3",
        "StartLimitIntervalUSec": "0",
        "NRestarts": "0",
        "MemoryMax": str(512 * 2**20),
        "TasksMax": "256",
        "OOMScoreAdjust": "0",
        "UMask": "0077",
        "LimitCORE": "0",
        "NoNewPrivileges": "yes",
    }
    assert {key: shown[key] for key in expected} == expected
    assert {"127.0.0.0/8", "::1/128"} <= set(shown["IPAddressDeny"].split())
    assert "default/web" in shown["Description"]
    status = systemd.host.run("systemctl", "status", "--no-pager", "--full", unit)
    assert "active (running)" in status
    assert "default/web" in status


def test_both_processes_are_in_the_units_control_group(systemd: PodHost) -> None:
    """Supervisor and worker are in the unit's control group. If the kernel has the memory controller there, the limit is set."""
    web = systemd.start(Pod.enrolled("web"))
    group = f"/tailscale_cni.slice/{systemd.unit(web)}"
    processes = systemd.supervisor(web), systemd.worker(web)
    for process in processes:
        groups = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
        assert any(line.endswith(group) for line in groups)
    own = [path for path in systemd.host.cgroups() if str(path).endswith(group)]
    assert own
    limits = [limit.read_text().strip() for path in own if (limit := path / "memory.max").exists()]
    # With cgroup v1 the memory controller stays on the machine, and the host's tree has none.
    assert limits == ([] if (CGROUPS / "memory").is_dir() else [str(512 * 2**20)])


def test_a_node_does_not_reach_what_listens_on_the_hosts_loopback(systemd: PodHost) -> None:
    """A process in the unit's control group cannot send packets to the host's loopback. Other processes can."""
    web = systemd.start(Pod.enrolled("web"))
    for address in ("127.0.0.1", "::1"):
        assert systemd.may_send(address)
        assert not systemd.may_send(address, systemd.group(web))


def test_the_worker_has_no_privilege(systemd: PodHost) -> None:
    """The worker has its own uid and gid, no other group, no capability and no way to gain one."""
    web = systemd.start(Pod.enrolled("web"))
    status = systemd.worker(web).status
    assert status["Uid"].split() == status["Gid"].split() == [status["Uid"].split()[0]] * 4
    assert int(status["Uid"].split()[0]) >= 2_000_000_000
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Groups"] == ""


def test_the_journal_has_the_nodes_log_and_no_key(systemd: PodHost) -> None:
    """The journal has the node's log under the unit's name and no auth key. There is no separate log file."""
    web = systemd.start(Pod.enrolled("web"))
    systemd.running(web)
    systemd.worker(web).kill()
    unit = systemd.unit(web)
    wait_until(
        lambda: "worker" in machine(systemd).journal(unit), what="a word about the worker in the journal"
    )
    key = systemd.host.run("cat", KEY).strip()
    assert key
    assert key not in systemd.host.run("journalctl", "--no-pager", "--output=export")
    assert not systemd.host.file(f"{RUN}/{systemd.id(web)}/log").exists


def test_a_dead_worker_is_replaced_within_its_unit(systemd: PodHost) -> None:
    """After SIGKILL of the worker a new worker runs the same node. Supervisor and unit are not restarted."""
    web = systemd.start(Pod.enrolled("web"))
    before, worker, supervisor = systemd.running(web), systemd.worker(web), systemd.supervisor(web)
    worker.kill()
    assert systemd.worker(web) != worker
    assert systemd.running(web)["addresses"] == before["addresses"]
    assert systemd.supervisor(web) == supervisor
    assert machine(systemd).show(systemd.unit(web))["NRestarts"] == "0"


def test_a_dead_supervisor_is_replaced_by_systemd(systemd: PodHost) -> None:
    """After SIGKILL of the supervisor the worker ends too. systemd restarts both as the same node."""
    web = systemd.start(Pod.enrolled("web"))
    before, worker, supervisor = systemd.running(web), systemd.worker(web), systemd.supervisor(web)
    node = systemd.node(before)
    supervisor.kill()
    wait_until(lambda: not worker.alive, what="the end of the worker without a supervisor")
    assert systemd.supervisor(web) != supervisor
    assert systemd.running(web)["addresses"] == before["addresses"]
    now = systemd.node(before)
    assert now and node and now["nodeKey"] == node["nodeKey"]
    assert machine(systemd).show(systemd.unit(web))["NRestarts"] == "1"


def test_a_unit_without_an_attachment_ends_for_good(systemd: PodHost) -> None:
    """If the attachment's record is gone, the unit starts once more and ends for good: not failed, and no longer loaded."""
    web = systemd.start(Pod.enrolled("web"))
    systemd.running(web)
    unit = systemd.unit(web)
    systemd.host.run("rm", "-r", f"{STATE}/attachments/{web.container_id}")
    systemd.supervisor(web).kill()
    wait_until(lambda: not machine(systemd).units(unit), what="the end of the unit")
    assert not systemd.of_the_product()
    assert not systemd.host.run("systemctl", "--failed", "--plain", "--no-legend")
    assert "Scheduled restart job, restart counter is at 1." in machine(systemd).journal(unit)
    assert "restart counter is at 2" not in machine(systemd).journal(unit)


def test_a_node_that_was_deleted_is_a_unit_that_ends_for_good(systemd: PodHost) -> None:
    """With ``onDeleted: stop``, a deleted node's unit ends: not restarted, not failed, no longer loaded. DEL removes the rest."""
    settings = systemd.host.file(f"{CONFIG}/config.yaml").content_string
    systemd.host.write(f"{CONFIG}/config.yaml", f"{settings}onDeleted: stop\n")
    web = systemd.start(Pod.enrolled("web"))
    row, unit = systemd.running(web), systemd.unit(web)
    note = f"{RUN}/{row['id']}/was-online"
    wait_until(lambda: systemd.host.file(note).exists, what="the control plane's word")
    node = systemd.node(row)
    assert node
    systemd.control.delete_node(node["id"])
    wait_until(lambda: not machine(systemd).units(unit), what="the end of the unit")
    assert not systemd.of_the_product()
    assert not systemd.host.run("systemctl", "--failed", "--plain", "--no-legend")
    assert "Scheduled restart job" not in machine(systemd).journal(unit)
    assert systemd.status()["web"]["state"] == "Deleted"
    systemd.call("DEL", web)
    assert not systemd.leftovers()


def test_an_admin_who_stops_a_unit_is_obeyed(systemd: PodHost) -> None:
    """``systemctl stop`` ends a node's processes and leaves no failed unit. DEL removes the rest."""
    web = systemd.start(Pod.enrolled("web"))
    systemd.running(web)
    unit = systemd.unit(web)
    systemd.host.run("systemctl", "stop", unit)
    assert not systemd.of_the_product()
    assert not machine(systemd).units(unit)
    assert systemd.status()["web"]["state"] == "NotSupervised"
    systemd.call("DEL", web)
    assert not systemd.leftovers()


def test_a_stopped_node_is_started_by_its_own_add_alone(systemd: PodHost) -> None:
    """A node that an admin stopped stays stopped when other pods start. The pod's own ADD starts the same node again."""
    web = systemd.start(Pod.enrolled("web"))
    before = systemd.running(web)
    systemd.host.run("systemctl", "stop", systemd.unit(web))
    systemd.running(systemd.start(Pod.enrolled("db")))
    assert systemd.status()["web"]["state"] == "NotSupervised"
    assert systemd.add_alone(web).returncode == 0
    assert systemd.running(web)["addresses"] == before["addresses"]


def test_what_an_admin_stopped_is_cleaned_up_when_its_pod_is_gone(systemd: PodHost) -> None:
    """If a stopped node's namespace vanishes, no unit reaps the node. The next ADD of an enrolled pod does."""
    web = systemd.start(Pod.enrolled("web"))
    systemd.running(web)
    systemd.host.run("systemctl", "stop", systemd.unit(web))
    web.netns.close()
    db = systemd.start(Pod.enrolled("db"))
    assert systemd.status().keys() == {"db"}
    systemd.call("DEL", db)
    assert not systemd.leftovers()


def test_reloading_systemd_disturbs_nobody(systemd: PodHost) -> None:
    """``systemctl daemon-reload`` and ``daemon-reexec`` keep the transient unit and its processes."""
    web = systemd.start(Pod.enrolled("web"))
    before, worker = systemd.running(web), systemd.worker(web)
    for verb in ("daemon-reload", "daemon-reexec"):
        systemd.host.run("systemctl", verb)
        assert systemd.host.service(systemd.unit(web)).is_running
        assert systemd.worker(web) == worker
    assert systemd.running(web) == before | {"last_handshake": systemd.status()["web"]["last_handshake"]}


def test_del_leaves_no_unit_behind(systemd: PodHost) -> None:
    """DEL removes a pod's unit, processes, files, interfaces, rules and node. Those of other pods stay."""
    web, db = systemd.start(Pod.enrolled("web")), systemd.start(Pod.enrolled("db"))
    first, second = systemd.running(web), systemd.running(db)
    systemd.call("DEL", web)
    assert machine(systemd).units("tailscale-cni-*") == [systemd.unit(db)]
    assert not systemd.node(first)
    assert systemd.running(db)
    systemd.call("DEL", db)
    assert not systemd.leftovers()
    assert not systemd.node(second)
    assert not systemd.host.run("systemctl", "--failed", "--plain", "--no-legend")
