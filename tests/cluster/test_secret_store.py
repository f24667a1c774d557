"""Identities in the cluster's Secrets: hosts that share a real API, with the RBAC of manifests/rbac.yaml, and no kubelet."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builds import need

from tailscale_cni.install.record import Installation
from tests.hosts.machine import SystemdHost
from tests.hosts.podhost import CONFIG, PodHost
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.planes import oauth
from tests.kit.process import CLEAN, Daemon
from tests.kit.runtime import CNIError, Pod, Sandbox
from tests.kit.wait import wait_until
from tests.kit.wire import Wire

from .apiserver import Api

KUBECONFIG = f"{CONFIG}/kubeconfig"
BALANCER = "127.0.0.1:6444"
"""The address at which every host of k3s reaches the API, independent of the servers' addresses."""

SUFFIXES = iter(f"{a}{b}" for a in "bcdfghjklm" for b in "npqrstvwxz")


class Place:
    """A host, and the name of its Node in the API."""

    def __init__(self, api: Api, host: Host, node: str) -> None:
        self.api, self.host, self.node = api, host, node
        api.add_node(node)

    def start(self, pod: Pod) -> Sandbox:
        """Create the pod in the API and start it on the host, as a scheduler and a kubelet do."""
        return self.host.start(self.api.place(pod, self.node))

    def stop(self, sandbox: Sandbox) -> None:
        """Call DEL, then delete the pod in the API."""
        self.host.runtime.delete(sandbox)
        self.api.forget(sandbox.pod)

    def warnings(self) -> str:
        """The log of the host's calls, which has their warnings; empty if there is none."""
        log = self.host.root / "log"
        return log.read_text() if log.exists() else ""

    def keys(self) -> set[str]:
        """The IDs of the identities on the host's disk."""
        return {path.name for path in (self.host.state_dir / "identities").iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def api(wire: Wire, directory: Path) -> Iterator[Api]:
    """The cluster's API."""
    with Api(wire, directory / "api") as api:
        yield api


@pytest.fixture
def places(api: Api, wire: Wire, control: ControlPlane, directory: Path) -> Iterator[tuple[Place, Place]]:
    """Two hosts with access to the API and with an OAuth client."""
    with ExitStack() as stack:

        def new_host(**config: Any) -> Host:
            root = directory / f"host{os.urandom(4).hex()}"
            # All hosts of this suite see each other's processes, so each needs user IDs of its own.
            uids = 1_000_000_000 + int.from_bytes(os.urandom(3), "big") * 16
            host = stack.enter_context(Host(wire, control, root, uidBase=uids, **config))
            host.configure(kubeconfig=str(api.kubeconfig(root / "kubeconfig")), logFile=str(root / "log"))
            return host

        made = [Place(api, oauth(new_host, control), f"node-{os.urandom(4).hex()}") for _ in range(2)]
        yield made[0], made[1]
        for name in api.secrets():
            api.kubectl("--namespace=tailscale-cni", "delete", "secret", name)


@pytest.fixture(params=["host", "pod"])
def k3s(
    request: pytest.FixtureRequest, api: Api, wire: Wire, control: ControlPlane, tmp_path: Path
) -> Iterator[PodHost]:
    """A host booted by systemd, like an agent of k3s: it reaches the API at a loopback address. Runs with both values of ``underlay``."""
    need(["hosts"])
    with SystemdHost(tmp_path / "host") as machine, PodHost(machine, wire, control) as host:
        proxy = ("/lib/systemd/systemd-socket-proxyd", f"{api.address}:6443")
        machine.run("systemd-run", "--unit=k3s-agent", f"--socket-property=ListenStream={BALANCER}", *proxy)
        machine.write(KUBECONFIG, api.access(server=f"https://{BALANCER}"), "600")
        host.install("--kubeconfig", KUBECONFIG)
        machine.run("sh", "-c", f"echo 'underlay: {request.param}' >>{CONFIG}/config.yaml")
        yield host
    for name in api.secrets():
        api.kubectl("--namespace=tailscale-cni", "delete", "secret", name)


def replica(name: str) -> Pod:
    """A new pod of a Deployment."""
    return Pod.enrolled(f"{name}-7b5d9c6f8-x2c{next(SUFFIXES)}", ephemeral="false")


def named(control: ControlPlane, prefix: str) -> list[str]:
    """The sorted names of the nodes that begin with PREFIX."""
    return sorted(node["name"] for node in control.nodes() if node["name"].startswith(prefix))


def is_at(place: Place, sandbox: Sandbox, addresses: list[str]) -> bool:
    """Whether a pod's node is in the tailnet with these addresses."""
    return place.host.running(sandbox) and place.host.node(sandbox).get("TailscaleIPs") == addresses


def record(api: Api, name: str) -> dict[str, Any]:
    """The record of an identity in the cluster."""
    document: dict[str, Any] = json.loads(base64.b64decode(api.secrets()[name]["data"]["record.json"]))
    return document


def saved(api: Api, name: str) -> bool:
    """Whether the cluster has an identity's keys."""
    return "tailscaled.state" in api.secrets().get(name, {"data": {}})["data"]


def test_a_stateful_pod_is_who_it_was_on_another_host(
    api: Api, places: tuple[Place, Place], control: ControlPlane
) -> None:
    """A StatefulSet's pod keeps name, addresses and port when it moves between hosts; a host that released it has no keys of it."""
    one, two = places
    old = one.start(Pod.enrolled("ledger-0"))
    before, (port,) = one.host.addresses(old), one.host.ports(old)
    wait_until(lambda: saved(api, "default.ledger-0.0"), what="the keys in the cluster")
    assert record(api, "default.ledger-0.0")["holder"]["node"] == one.node
    one.stop(old)
    wait_until(lambda: record(api, "default.ledger-0.0")["holder"] is None, what="the release")
    wait_until(lambda: one.keys() == set(), what="no keys on the host")
    assert one.host.leftovers() == []
    new = two.start(Pod.enrolled("ledger-0"))
    assert two.host.addresses(new) == before
    assert two.host.ports(new) == {port}
    assert record(api, "default.ledger-0.0")["holder"]["node"] == two.node
    two.stop(new)
    again = one.start(Pod.enrolled("ledger-0"))
    assert one.host.addresses(again) == before
    assert named(control, "ledger") == ["ledger-0"]


def test_two_hosts_never_run_one_identity(
    api: Api, places: tuple[Place, Place], control: ControlPlane
) -> None:
    """A host that is cut off keeps its identity, the pod elsewhere gets the next number, and the log says why.

    Once the host's Node is deleted, the identity moves to the other host. When the first host is back, it ends its old node.
    """
    one, two = places
    old = one.start(Pod.enrolled("stock-0"))
    before = one.host.addresses(old)
    wait_until(lambda: saved(api, "default.stock-0.0"), what="the keys in the cluster")
    new = two.start(Pod.enrolled("stock-0"))
    assert two.host.addresses(new) != before
    assert named(control, "stock") == ["stock-0", "stock-0-1"]
    assert f"host {one.node} has the identity tailscale-cni/default.stock-0.0" in two.warnings()
    assert f"'kubectl delete node {one.node}'" in two.warnings()
    api.delete_node(one.node)
    wait_until(lambda: is_at(two, new, before), what="the identity")
    api.add_node(one.node)  # the same name, but a different Node
    with pytest.raises(Exception, match="exit status 4"):
        one.host.command("worker", "attend", f"--state-dir={one.host.state_dir}", one.host.id(old))
    one.host.supervisor(old).kill()
    one.host.start(Pod.enrolled("passes-by-too"))
    wait_until(lambda: len(one.host.nodes()) == 2, what="no process of the old one")
    wait_until(lambda: named(control, "stock") == ["stock-0"], what="one node of the name")
    one.stop(old)
    assert record(api, "default.stock-0.0")["holder"]["node"] == two.node
    assert two.host.addresses(new) == before


def test_a_host_that_is_vouched_for_to_be_off_gives_way(api: Api, places: tuple[Place, Place]) -> None:
    """An identity moves if the Node of its host has the taint out-of-service, as it does if the Node is deleted."""
    one, two = places
    old = one.start(Pod.enrolled("etcd-0"))
    before = one.host.addresses(old)
    wait_until(lambda: saved(api, "default.etcd-0.0"), what="the keys in the cluster")
    for process in one.host.supervisor(old), one.host.worker(old):
        process.kill()
    api.taint(one.node)
    new = two.start(Pod.enrolled("etcd-0"))
    assert two.host.addresses(new) == before


def test_rollouts_between_two_hosts_end_with_the_name_and_the_addresses_of_the_first(
    api: Api, places: tuple[Place, Place], control: ControlPlane
) -> None:
    """Each new pod starts on the other host before the old one ends, then has the old name and addresses; its temporary node is deleted."""
    here, there = places
    old = here.start(replica("cinema"))
    first = here.host.addresses(old)
    for _ in range(3):
        new = there.start(replica("cinema"))
        assert there.host.addresses(new) != first
        here.stop(old)
        wait_until(partial(is_at, there, new, first), what="the addresses")
        wait_until(lambda: named(control, "cinema") == ["cinema"], what="the end of cinema-1")
        here, there, old = there, here, new
    wait_until(lambda: set(api.secrets()) == {"default.cinema.0"}, what="one identity")


def test_an_api_that_is_away_stops_nobody_who_was_here(
    api: Api, places: tuple[Place, Place], control: ControlPlane
) -> None:
    """While the API is down, a pod's new sandbox on the same host is the same node.

    On another host, ADD fails with "try again later" (code 11) for a StatefulSet's pod, and a Deployment's pod becomes a new
    ephemeral node. When the API is back, the host writes the pending releases to the cluster.
    """
    one, two = places
    old, other = one.start(Pod.enrolled("redis-0")), one.start(replica("wiki"))
    before = one.host.addresses(old)
    one.host.addresses(other)
    wait_until(lambda: saved(api, "default.redis-0.0"), what="the keys in the cluster")
    stateful, lone = api.place(old.pod, two.node), api.place(replica("wiki"), two.node)
    with api.away():
        one.host.runtime.delete(old)
        again = one.host.start(old.pod)
        assert one.host.addresses(again) == before
        with pytest.raises(CNIError, match="because another host may still run it") as refused:
            two.host.start(stateful)
        assert refused.value.code == 11
        alone = two.host.start(lone)
        assert control.node(two.host.node(alone)["Self"]["HostName"])
        assert "a new ephemeral node instead of its identity" in two.warnings()
        one.host.runtime.delete(again)
        assert list((one.host.state_dir / "releases").iterdir())
    two.host.runtime.delete(two.host.sandboxes[0])
    one.host.runtime.delete(other)
    wait_until(lambda: record(api, "default.redis-0.0")["holder"] is None, what="the release")
    moved = two.host.start(api.place(old.pod, two.node))
    assert two.host.addresses(moved) == before


def test_identities_that_were_a_hosts_alone_become_the_clusters(
    api: Api, places: tuple[Place, Place]
) -> None:
    """A host that gets a kubeconfig later keeps its identities, and the cluster gets them."""
    one, two = places
    kubeconfig = one.host.config["kubeconfig"]
    one.host.configure(kubeconfig=None)
    old = one.host.start(Pod.enrolled("gitea-0"))
    before = one.host.addresses(old)
    one.host.runtime.delete(old)
    one.host.configure(kubeconfig=kubeconfig)
    new = one.start(Pod.enrolled("gitea-0"))
    assert one.host.addresses(new) == before
    one.stop(new)
    assert two.host.addresses(two.start(Pod.enrolled("gitea-0"))) == before


def test_without_permission_the_hosts_disk_has_to_do(api: Api, places: tuple[Place, Place]) -> None:
    """Without the RBAC for Secrets, or with ``identityStore: host``, identities stay on the host's disk; without RBAC the log warns."""
    one, _ = places
    role = api.kubectl("--namespace=tailscale-cni", "get", "role", "identities", "--output=json")
    api.kubectl("--namespace=tailscale-cni", "delete", "role", "identities")
    try:
        old = one.start(Pod.enrolled("nats-0"))
        before = one.host.addresses(old)
        assert "stored on this host only: the Kubernetes API denied the request" in one.warnings()
        one.stop(old)
        assert one.host.addresses(one.start(Pod.enrolled("nats-0"))) == before
    finally:
        api.kubectl("create", "--filename=-", stdin=role)
    assert api.secrets() == {}
    one.host.configure(identityStore="host")
    one.host.addresses(one.start(Pod.enrolled("loki-0")))
    assert api.secrets() == {}


def test_what_is_broken_is_nobodys(api: Api, places: tuple[Place, Place], control: ControlPlane) -> None:
    """A Secret with an invalid format is skipped with a warning, and is not changed."""
    one, _ = places
    metadata = {
        "name": "default.vault-0.0",
        "namespace": "tailscale-cni",
        "labels": {"tailscale.com/namespace": "default", "tailscale.com/name": "vault-0"},
    }
    broken = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "tailscale.com/identity",
        "metadata": metadata,
        "stringData": {"record.json": '{"version":1,"holder":null}', "tailscaled.state": "[]"},
    }
    api.kubectl("create", "--filename=-", stdin=json.dumps(broken))
    sandbox = one.start(Pod.enrolled("vault-0"))
    one.host.addresses(sandbox)
    assert named(control, "vault") == ["vault-0-1"]
    assert "has an invalid format" in one.warnings()


def test_hosts_that_come_at_once_share_nothing(
    api: Api, places: tuple[Place, Place], control: ControlPlane
) -> None:
    """Pods with the same workload name that start at the same time on two hosts all get different numbers, keys and addresses."""
    for place in places:
        place.host.configure(
            readyTimeout="60s"
        )  # the API gets half of it to answer eight calls at once on a busy machine
    pods = [(place, api.place(replica("crowd"), place.node)) for place in places for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        sandboxes = list(pool.map(lambda pair: pair[0].host.start(pair[1]), pods))
        addresses = list(
            pool.map(lambda p: p[0][0].host.addresses(p[1])[0], zip(pods, sandboxes, strict=True))
        )
    assert len(set(addresses)) == len(pods)
    assert set(api.secrets()) == {f"default.crowd.{number}" for number in range(len(pods))}
    assert named(control, "crowd") == sorted(["crowd", *(f"crowd-{n}" for n in range(1, len(pods)))])
    wait_until(partial(_all_saved, api), what="the keys in the cluster")


def _all_saved(api: Api) -> bool:
    return all(saved(api, name) for name in api.secrets())


def test_an_add_that_is_killed_holds_nothing(api: Api, places: tuple[Place, Place]) -> None:
    """After a killed ADD, the same pod gets its identity at the next ADD; once the host had another call, a pod of another host gets it."""
    one, two = places
    pod = api.place(Pod.enrolled("cache-0"), one.node)
    killed_in_the_middle(api, one, pod)
    again = one.host.start(pod)
    assert one.host.node(again)["Self"]["HostName"] == "cache-0"
    one.stop(again)
    wait_until(lambda: record(api, "default.cache-0.0")["holder"] is None, what="the release")
    killed_in_the_middle(api, one, api.place(Pod.enrolled("cache-0"), one.node))
    one.host.start(Pod.enrolled("passes-by"))
    wait_until(lambda: record(api, "default.cache-0.0")["holder"] is None, what="the release")
    moved = two.start(Pod.enrolled("cache-0"))
    assert two.host.node(moved)["Self"]["HostName"] == "cache-0"


def killed_in_the_middle(api: Api, place: Place, pod: Pod) -> None:
    """Kill an ADD as soon as the identity is held for its pod; then call DEL, as kubelet does, for the unfinished container."""
    host, sandbox = place.host, place.host.sandbox(pod)
    call = host.runtime.entry(sandbox, prevResult=host.runtime.add_primary(sandbox))
    argv, environ = host.netns.within(host.runtime.plugin), CLEAN | host.runtime.environ("ADD", sandbox)
    with Daemon(argv, log=host.root / "add.log", env=environ) as add:
        add.stdin.write(json.dumps(call).encode())
        add.stdin.close()
        wait_until(lambda: held(api, f"default.{pod.name}.0"), what="a holder")
        os.kill(add.pid, signal.SIGKILL)
    host.runtime.chained("DEL", sandbox)


def held(api: Api, name: str) -> bool:
    """Whether any host holds an identity."""
    return name in api.secrets() and record(api, name)["holder"] is not None


def test_a_secret_that_is_deleted_under_a_pod_is_made_again(api: Api, places: tuple[Place, Place]) -> None:
    """If the Secret of a running pod's identity is deleted, the host writes its keys to the cluster again, so that there are two copies."""
    one, two = places
    sandbox = one.start(Pod.enrolled("ldap-0"))
    before = one.host.addresses(sandbox)
    wait_until(lambda: saved(api, "default.ldap-0.0"), what="the keys in the cluster")
    api.kubectl("--namespace=tailscale-cni", "delete", "secret", "default.ldap-0.0")
    one.host.worker(sandbox).kill()
    wait_until(lambda: saved(api, "default.ldap-0.0"), what="the keys in the cluster again")
    one.stop(sandbox)
    assert two.host.addresses(two.start(Pod.enrolled("ldap-0"))) == before


def test_nothing_of_the_keys_is_said(api: Api, places: tuple[Place, Place]) -> None:
    """No log, argument or environment contains a key of the Secret, and on the disk only the owner can read the keys."""
    one, two = places
    old = one.start(Pod.enrolled("safe-0"))
    one.host.addresses(old)
    wait_until(lambda: saved(api, "default.safe-0.0"), what="the keys in the cluster")
    one.stop(old)
    new = two.start(Pod.enrolled("safe-0"))
    two.host.addresses(new)
    state = base64.b64decode(api.secrets()["default.safe-0.0"]["data"]["tailscaled.state"])
    words = [word for word in json.loads(state).values() if len(word) > 40]
    assert words
    shown = "".join(place.warnings() + place.host.logs() for place in places)
    shown += "".join("".join((*process.argv, process.environ)) for process in two.host.processes())
    assert not any(word in shown for word in (*words, "privkey:"))
    directory = next((two.host.state_dir / "identities").glob("*/tailscaled.state")).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in directory.iterdir()} == {0}


def test_what_is_uninstalled_is_given_back(api: Api, places: tuple[Place, Place]) -> None:
    """`uninstall` releases the identity of a pod that still exists: the cluster has the keys, and another host can run the node."""
    one, two = places
    before = one.host.addresses(one.start(Pod.enrolled("nas-0")))
    runtime = one.host.runtime
    roots = (f"--state-dir={one.host.state_dir}", f"--run-dir={one.host.run_dir}")
    one.host.command(
        "uninstall", *roots, f"--cni-conf-dir={runtime.conflist().parent}", f"--cni-bin-dir={runtime.bin}"
    )
    assert record(api, "default.nas-0.0")["holder"] is None
    assert two.host.addresses(two.start(Pod.enrolled("nas-0"))) == before


def test_what_is_uninstalled_and_forgotten_is_nobodys(
    api: Api, places: tuple[Place, Place], control: ControlPlane
) -> None:
    """`uninstall --forget-identities` deletes the host's identities from cluster and tailnet, but none that another host holds by now."""
    one, two = places
    one.host.addresses(one.start(Pod.enrolled("nfs-0")))
    moved = one.start(Pod.enrolled("moved-0"))
    before = one.host.addresses(moved)
    for name in ("nfs-0", "moved-0"):
        wait_until(partial(saved, api, f"default.{name}.0"), what="the keys in the cluster")
    for process in one.host.supervisor(moved), one.host.worker(moved):
        process.kill()
    api.taint(one.node)
    new = two.start(Pod.enrolled("moved-0"))
    assert two.host.addresses(new) == before
    runtime = one.host.runtime
    conf_dir, bin_dir = str(runtime.conflist().parent), str(runtime.bin)
    Installation(conf_dir, bin_dir, one.host.config).save(str(one.host.state_dir))
    one.host.command("uninstall", f"--state-dir={one.host.state_dir}", "--forget-identities")
    assert set(api.secrets()) == {"default.moved-0.0"}
    assert named(control, "nfs") == []
    assert is_at(two, new, before)


def test_an_identity_that_is_forgotten_is_nobodys(
    api: Api, places: tuple[Place, Place], control: ControlPlane
) -> None:
    """After `identities forget` for a pod that ended while the API was down, the identity is also deleted from the cluster."""
    one, _ = places
    old = one.start(Pod.enrolled("tmp-0"))
    one.host.addresses(old)
    wait_until(lambda: saved(api, "default.tmp-0.0"), what="the keys in the cluster")
    with api.away():
        one.host.runtime.delete(old)
        one.host.command("identities", "forget", f"--state-dir={one.host.state_dir}", "default/tmp-0")
    one.start(Pod.enrolled("passes-by"))
    wait_until(lambda: "default.tmp-0.0" not in api.secrets(), what="no identity of that name")


def test_a_unit_asks_an_api_that_its_worker_does_not_reach(api: Api, k3s: PodHost) -> None:
    """With the API at a loopback address, as on k3s, keys reach the cluster and come back; the pod's unit cannot send to that address."""
    node = f"node-{os.urandom(4).hex()}"
    api.add_node(node)
    old = k3s.start(api.place(Pod.enrolled("home-0"), node))
    before = k3s.running(old)["addresses"]
    wait_until(lambda: saved(api, "default.home-0.0"), what="the keys in the cluster")
    assert record(api, "default.home-0.0")["holder"]["node"] == node
    assert k3s.may_send("127.0.0.1")
    assert not k3s.may_send("127.0.0.1", k3s.group(old))
    machine = k3s.host
    assert isinstance(machine, SystemdHost)
    wait_until(lambda: not machine.units("run-*.scope"), what="the end of what has asked")
    k3s.call("DEL", old)
    wait_until(lambda: record(api, "default.home-0.0")["holder"] is None, what="the release")
    assert k3s.running(k3s.start(api.place(Pod.enrolled("home-0"), node)))["addresses"] == before
