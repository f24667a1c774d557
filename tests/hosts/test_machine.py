"""Tests of the hosts themselves. The other tests of this suite rely on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.process import Process, processes
from tests.kit.wait import wait_until
from tests.kit.wire import Wire

from .machine import CGROUPS, BootedHost, PlainHost, SystemdHost

BOTH = pytest.mark.parametrize("kind", [SystemdHost, PlainHost])


@BOTH
def test_the_disk_stays_over_a_reboot_and_nothing_else_does(kind: type[BootedHost], tmp_path: Path) -> None:
    """The disk survives a reboot. The boot ID, /run and the network are new."""
    with kind(tmp_path) as host:
        host.write("/var/lib/kept", "still here")
        host.write("/run/lost", "not any more")
        host.run("ip", "link", "add", "lost", "type", "bridge")
        boot = host.run("cat", "/proc/sys/kernel/random/boot_id")
        host.reboot()
        assert host.file("/var/lib/kept").content_string == "still here"
        assert not host.file("/run/lost").exists
        assert host.netns.links() == {"lo"}
        assert host.run("cat", "/proc/sys/kernel/random/boot_id") != boot


@BOTH
def test_nothing_of_a_host_is_left_on_the_machine(kind: type[BootedHost], tmp_path: Path) -> None:
    """A host that is closed while it runs processes leaves no process, mount, namespace, cgroup or file."""
    with kind(tmp_path) as host:
        host.run("sh", "-c", "setsid sleep 1000 </dev/null >/dev/null 2>&1 &")
        host.run("ip", "netns", "add", "pod")
        name, inside = host.name, host.processes()
        netns = host.netns.path
        assert any("sleep" in process.argv and "1000" in process.argv for process in inside)
    assert not [process for process in inside if process.alive]
    assert not processes(lambda process: any(name in word for word in process.argv))
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert not netns.exists()
    assert not [folder for folder, _, _ in os.walk(CGROUPS) if Path(folder).name == name]
    assert not list((tmp_path / "disk").iterdir())


@BOTH
def test_a_host_can_be_plugged_into_a_wire(kind: type[BootedHost], tmp_path: Path) -> None:
    """Two hosts on one wire reach each other over IPv4 and IPv6."""
    with Wire() as wire, kind(tmp_path / "one") as one, PlainHost(tmp_path / "other") as other:
        wire.plug(one.netns)
        plug = wire.plug(other.netns)
        for address in (plug.v4, plug.v6):
            assert address in other.run("ip", "address", "show", "eth0")
            assert "reachable" in one.run("python3", "-c", KNOCK, address)


def test_systemd_starts_a_unit_again(tmp_path: Path) -> None:
    """systemd restarts a killed transient unit, and the unit's log is in the journal."""
    with SystemdHost(tmp_path) as host:
        command = ["sh", "-c", "echo started; exec sleep 1000"]
        host.run(
            "systemd-run",
            "--unit=again",
            "--slice=trial.slice",
            "--property=Restart=on-failure",
            "--property=RestartSec=0",
            *command,
        )
        first = wait_until(lambda: host.called("sleep"), what="the unit's process")[0]
        first.kill()
        wait_until(lambda: host.called("sleep"), what="the unit's process again")
        assert host.service("again").is_running
        assert host.show("again.service")["Slice"] == "trial.slice"
        wait_until(
            lambda: host.journal("again").splitlines().count("started") == 2, what="two starts in the journal"
        )


def test_a_plain_host_has_no_systemd(tmp_path: Path) -> None:
    """On a host without systemd, PID 1 only reaps, and processes continue after their parent has ended."""
    with PlainHost(tmp_path) as host:
        assert host.run("cat", "/proc/1/comm") != "systemd\n"
        assert not host.file("/run/systemd/system").exists
        host.run("sh", "-c", "setsid sleep 1001 </dev/null >/dev/null 2>&1 &")
        orphan = wait_until(
            lambda: next((process for process in host.called("sleep") if "1001" in process.argv), None),
            what="the orphan",
        )
        parent = Process.of(orphan.parent)
        assert parent and parent.status["NSpid"].split()[-1] == "1"


KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=10)
except ConnectionRefusedError:
    print("reachable")
"""
