"""After DEL nothing is left, whatever form the DEL has, and also if no DEL ever comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.process import Process
from tests.kit.runtime import CNIError, Pod, Sandbox
from tests.kit.wait import wait_until


def _all_gone(host: Host) -> bool:
    return host.leftovers() == []


def test_del_leaves_nothing(host: Host, control: ControlPlane) -> None:
    """DEL removes every process, interface, file, rule, firewall table and node. The namespace itself belongs to the runtime."""
    web = host.sandbox(Pod.enrolled("ends"))
    pristine = web.netns.rules()
    host.runtime.add(web)
    host.addresses(web)
    assert host.leftovers() != []
    host.runtime.delete(web)
    assert host.leftovers() == []
    assert control.node("ends") is None
    assert web.netns.links() == {"lo"}
    assert web.netns.rules() == pristine
    assert web.netns.run("nft", "list", "ruleset") == ""
    assert web.netns.ip("route", "show", "table", "52") == []


def test_del_of_one_pod_leaves_the_other(host: Host, control: ControlPlane) -> None:
    """DEL of a pod ends that pod's node. The node of another pod continues in the same processes."""
    stays, goes = host.start(Pod.enrolled("stays")), host.start(Pod.enrolled("goes"))
    addresses, worker = host.addresses(stays), host.worker(stays)
    host.addresses(goes)
    host.runtime.delete(goes)
    assert control.node("goes") is None
    assert host.worker(stays) == worker
    assert host.addresses(stays) == addresses
    assert len(host.nodes()) == 2


def _plain(host: Host, sandbox: Sandbox) -> None:
    host.runtime.delete(sandbox)


def _without_netns(host: Host, sandbox: Sandbox) -> None:
    host.runtime.delete(sandbox, netns="")


def _after_netns_is_gone(host: Host, sandbox: Sandbox) -> None:
    sandbox.netns.close()
    host.runtime.delete(sandbox)


def _without_prev_result(host: Host, sandbox: Sandbox) -> None:
    shutil.rmtree(host.runtime.cache)  # libcni takes prevResult from here
    host.runtime.delete(sandbox)


def _three_times(host: Host, sandbox: Sandbox) -> None:
    for _ in range(3):
        host.runtime.delete(sandbox)


def _with_another_configuration(host: Host, sandbox: Sandbox) -> None:
    host.configure(
        authKeyFile="/nowhere", controlURL="http://127.0.0.1:1", underlay="pod", antiSpoofing=False
    )
    host.runtime.delete(sandbox)


def _with_an_invalid_configuration(host: Host, sandbox: Sandbox) -> None:
    host.configure(readyTimeout="soon", noSuchKey=1)
    host.runtime.delete(sandbox)


def _with_a_renamed_network(host: Host, sandbox: Sandbox) -> None:
    host.runtime.chained("DEL", sandbox, name="renamed")
    host.runtime.delete(sandbox)


def _without_annotations(host: Host, sandbox: Sandbox) -> None:
    host.runtime.delete(sandbox, capabilityArgs={}, args=[])


def _with_an_unreadable_key(host: Host, sandbox: Sandbox) -> None:
    host.key_file.unlink()
    host.runtime.delete(sandbox)


FORMS = [
    _plain,
    _without_netns,
    _after_netns_is_gone,
    _without_prev_result,
    _three_times,
    _with_another_configuration,
    _with_an_invalid_configuration,
    _with_a_renamed_network,
    _without_annotations,
    _with_an_unreadable_key,
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__.strip("_"))
def test_del_in_every_form(host: Host, control: ControlPlane, form: Callable[[Host, Sandbox], None]) -> None:
    """DEL uses ADD's record: it needs no namespace, no prevResult, no annotations and not the configuration that ADD had."""
    web = host.start(Pod.enrolled("forms"))
    host.addresses(web)
    form(host, web)
    wait_until(lambda: control.node("forms") is None, what="the node's end")
    assert host.processes() == []
    assert host.files() == []
    web.netns.close()
    wait_until(lambda: _all_gone(host), what="a host with nothing left on it")


def test_del_of_what_was_never_added(host: Host) -> None:
    """DEL of an unknown container succeeds, with and without a namespace, and leaves no file."""
    unknown = host.sandbox(Pod.enrolled("unknown"))
    host.runtime.delete(unknown)
    host.runtime.chained("DEL", unknown)
    without_netns = {**host.runtime.environ("DEL", unknown), "CNI_NETNS": ""}
    done = host.runtime.exec_plugin(without_netns, host.runtime.entry(unknown))
    assert done.returncode == 0, done.stdout + done.stderr
    assert host.leftovers() == []


def test_del_after_an_add_that_failed(host: Host, control: ControlPlane) -> None:
    """If ADD failed because the pod requires the tailnet, DEL leaves nothing."""
    host.configure(readyTimeout="300ms")
    pod = host.sandbox(Pod.enrolled("failed", required="true"))
    with control.outage():
        with pytest.raises(CNIError) as error:
            host.runtime.add(pod)
        assert error.value.code == 11
        host.runtime.delete(pod)
        assert host.leftovers() == []


def test_del_never_touches_another_namespace(host: Host) -> None:
    """If a new namespace is at the recorded path, DEL does not touch what is in it."""
    web = host.start(Pod.enrolled("first"))
    host.addresses(web)
    web.netns.close()
    web.netns.open()
    web.netns.run("ip", "link", "add", "ts0", "type", "bridge")
    host.runtime.chained("DEL", web)
    assert web.netns.links() == {"lo", "ts0"}
    assert host.files() == []


def test_del_never_signals_another_process(host: Host) -> None:
    """DEL does not signal a process that has the recorded process ID but another start time."""
    web = host.start(Pod.enrolled("pids"))
    host.addresses(web)
    ours = [host.supervisor(web), host.worker(web)]
    with web.netns.daemon(["cat"], host.root / "log") as innocent:
        record = host.run_dir / host.id(web) / "supervisor"
        record.write_text(f"{innocent.pid} 1\n")
        host.runtime.delete(web)
        assert Process.of(innocent.pid)
    for process in ours:
        process.kill()
    assert host.files() == []


def test_a_pod_whose_del_never_comes_is_reaped(host: Host, control: ControlPlane) -> None:
    """If a namespace is removed without DEL, its node logs out and nothing is left, not even the host's end of the veth."""
    web = host.start(Pod.enrolled("reaped"))
    host.addresses(web)
    web.netns.close()
    wait_until(lambda: _all_gone(host), what="a host with nothing left on it")
    wait_until(lambda: control.node("reaped") is None, what="the node's end")


def test_reaping_one_pod_leaves_the_other(host: Host) -> None:
    """If a namespace is removed without DEL, the nodes of other pods continue."""
    stays, goes = host.start(Pod.enrolled("stays")), host.start(Pod.enrolled("goes"))
    addresses, worker = host.addresses(stays), host.worker(stays)
    host.addresses(goes)
    goes.netns.close()
    wait_until(lambda: len(host.nodes()) == 2, what="the end of the other")
    assert host.worker(stays) == worker
    assert host.addresses(stays) == addresses
