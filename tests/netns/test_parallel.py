"""Many calls at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.runtime import Pod

PODS = 20


def test_many_pods_at_once(host: Host, control: ControlPlane) -> None:
    """Twenty parallel ADDs make twenty nodes, each with its own uid and port. Twenty parallel DELs leave nothing."""
    host.runtime.delete(
        host.start(Pod.enrolled("unpacks"))
    )  # under load, the other calls would time out while they wait for that
    sandboxes = [host.sandbox(Pod.enrolled(f"many-{n}x")) for n in range(PODS)]
    with ThreadPoolExecutor(PODS) as pool:
        list(pool.map(host.runtime.add, sandboxes))
        addresses = [tuple(found) for found in pool.map(host.addresses, sandboxes)]
    workers = [host.worker(sandbox) for sandbox in sandboxes]
    assert len(set(addresses)) == PODS
    assert len({worker.status["Uid"] for worker in workers}) == PODS
    assert len({tuple(host.ports(sandbox)) for sandbox in sandboxes}) == PODS
    with ThreadPoolExecutor(PODS) as pool:
        list(pool.map(host.runtime.delete, sandboxes))
    assert host.leftovers() == []
    assert [node["name"] for node in control.nodes() if node["name"].startswith("many-")] == []


def test_the_same_pod_added_by_several_calls_at_once(host: Host, control: ControlPlane) -> None:
    """Parallel ADDs of one attachment make one node, even with a single-use key."""
    host.set_key(control.mint(reusable=False).key)
    web = host.sandbox(Pod.enrolled("once"))
    previous = host.runtime.add_primary(web)
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(lambda _: host.runtime.chained("ADD", web, prevResult=previous), range(5)))
    assert results == [previous] * 5
    addresses = host.addresses(web)
    assert [node["addresses"] for node in control.nodes() if node["hostname"] == "once"] == [addresses]
    assert len(host.nodes()) == 2


def test_a_del_while_add_waits_for_the_control_plane(host: Host, control: ControlPlane) -> None:
    """A DEL during a waiting ADD ends the node, and the ADD fails instead of configuring a removed pod."""
    host.configure(readyTimeout="20s")
    web = host.sandbox(Pod.enrolled("hasty"))
    previous = host.runtime.add_primary(web)
    with control.outage(), ThreadPoolExecutor(1) as pool:
        adding = pool.submit(host.runtime.chained, "ADD", web, prevResult=previous)
        host.worker(web)
        host.runtime.chained("DEL", web)
        error = adding.exception(60)
    assert getattr(error, "code", None) == 110, error
    assert host.processes() == []
    assert host.files() == []
    assert "ts0" not in web.netns.links()
