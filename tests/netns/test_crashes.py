"""Calls that are killed half-way, and processes that hang: the next call cleans up in bounded time."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.process import CLEAN, Daemon
from tests.kit.runtime import Pod, Sandbox
from tests.kit.wait import wait_until

Moment = Callable[[Host, Sandbox], Any]


def _adding(host: Host, sandbox: Sandbox, previous: dict[str, Any]) -> Daemon:
    """Start ADD as a process that a test can kill."""
    argv = host.netns.within(host.runtime.plugin)
    daemon = Daemon(argv, log=host.root / "add.log", env=CLEAN | host.runtime.environ("ADD", sandbox))
    daemon.stdin.write(json.dumps(host.runtime.entry(sandbox, prevResult=previous)).encode())
    daemon.stdin.close()
    return daemon


def _at_once(host: Host, sandbox: Sandbox) -> bool:
    return True


def _recorded(host: Host, sandbox: Sandbox) -> bool:
    return (host.state_dir / "attachments" / sandbox.container_id).exists()


def _with_an_interface(host: Host, sandbox: Sandbox) -> bool:
    return "ts0" in sandbox.netns.links()


def _with_an_identity(host: Host, sandbox: Sandbox) -> bool:
    return any((host.state_dir / "identities").glob("*"))


def _supervised(host: Host, sandbox: Sandbox) -> bool:
    return (host.run_dir / host.id(sandbox) / "supervisor").exists()


def _with_rules(host: Host, sandbox: Sandbox) -> bool:
    return bool(sandbox.netns.run("nft", "list", "ruleset"))


MOMENTS = [_at_once, _recorded, _with_an_identity, _with_an_interface, _supervised, _with_rules]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__.strip("_"))
def test_del_cleans_what_a_killed_add_left(host: Host, control: ControlPlane, moment: Moment) -> None:
    """After ADD was killed at any moment, DEL leaves nothing, because ADD records before it acts."""
    host.configure(readyTimeout="30s")
    web = host.sandbox(Pod.enrolled("killed"))
    previous = host.runtime.add_primary(web)
    pristine = web.netns.rules()
    with control.outage(), _adding(host, web, previous) as add:
        wait_until(lambda: moment(host, web), what=f"the moment {moment.__name__}")
        os.kill(add.pid, signal.SIGKILL)
    host.runtime.chained("DEL", web)
    wait_until(lambda: host.processes() == [], what="the end of all processes")
    assert host.files() == []
    assert "ts0" not in web.netns.links()
    assert web.netns.rules() == pristine
    assert web.netns.run("nft", "list", "ruleset") == ""


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__.strip("_"))
def test_add_mends_what_a_killed_add_left(host: Host, control: ControlPlane, moment: Moment) -> None:
    """After ADD was killed at any moment, a second ADD of the pod makes one complete node."""
    host.configure(readyTimeout="30s")
    web = host.sandbox(Pod.enrolled("again"))
    previous = host.runtime.add_primary(web)
    with control.outage(), _adding(host, web, previous) as add:
        wait_until(lambda: moment(host, web), what=f"the moment {moment.__name__}")
        os.kill(add.pid, signal.SIGKILL)
    host.runtime.chained("ADD", web, prevResult=previous)
    addresses = host.addresses(web)
    host.runtime.chained("CHECK", web, prevResult=previous)
    assert [node["addresses"] for node in control.nodes() if node["hostname"] == "again"] == [addresses]
    assert len(host.nodes()) == 2


@pytest.mark.parametrize("who", ["worker", "supervisor"])
def test_del_ends_what_hangs(host: Host, who: str) -> None:
    """If a worker or a supervisor hangs, DEL still ends in bounded time and leaves nothing."""
    web = host.start(Pod.enrolled("hangs"))
    host.addresses(web)
    process = host.worker(web) if who == "worker" else host.supervisor(web)
    os.kill(process.pid, signal.SIGSTOP)
    host.runtime.delete(web)
    assert host.leftovers() == []


def test_check_of_a_node_that_hangs(host: Host) -> None:
    """If a worker hangs, CHECK fails with code 109 in bounded time."""
    web = host.sandbox(Pod.enrolled("hangs"))
    previous = host.runtime.add_primary(web)
    host.runtime.chained("ADD", web, prevResult=previous)
    host.addresses(web)
    os.kill(host.worker(web).pid, signal.SIGSTOP)
    done = host.runtime.exec_plugin(
        host.runtime.environ("CHECK", web), host.runtime.entry(web, prevResult=previous)
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 109


def test_a_call_that_is_terminated_says_so(host: Host, control: ControlPlane) -> None:
    """SIGTERM ends a waiting ADD at once with code 11 ("try again") as JSON, and DEL removes what the ADD made."""
    host.configure(readyTimeout="30s")
    web = host.sandbox(Pod.enrolled("terminated"))
    previous = host.runtime.add_primary(web)
    with control.outage(), _adding(host, web, previous) as add:
        host.worker(web)
        os.kill(add.pid, signal.SIGTERM)
        answer = json.loads(add.stdout.read())
    assert answer["code"] == 11
    host.runtime.chained("DEL", web)
    assert host.processes() == []
    assert host.files() == []
