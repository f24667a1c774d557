"""Auth keys from a control plane's API: one key per pod, with the pod's tags, used by one worker, and readable nowhere."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.planes import KINDS, Kind, NewHost, headscale, oauth
from tests.kit.process import CLEAN, Daemon, Process, processes
from tests.kit.runtime import CNIError, Pod, Sandbox
from tests.kit.wait import wait_until


def _secret(host: Host) -> str:
    return next(path for name in ("oauth", "apikey") if (path := host.root / name).exists()).read_text()


@KINDS
def test_a_pod_is_enrolled_through_the_api(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """A pod gets its own key, which is used once and gives the pod its tags. After DEL nothing of the pod is left."""
    host = kind(new_host, control)
    before = {key["id"] for key in control.auth_keys()}
    web = host.start(Pod.enrolled("api", tags="tag:k8s-pod,tag:media"))
    addresses = host.addresses(web)
    (key,) = [key for key in control.auth_keys() if key["id"] not in before]
    assert (key["used"], key["reusable"], key["ephemeral"]) == (True, False, True)
    node = control.node("api")
    assert node
    assert (node["addresses"], node["tags"]) == (addresses, ["tag:k8s-pod", "tag:media"])
    host.runtime.delete(web)
    assert control.node("api") is None
    assert host.leftovers() == []


@KINDS
def test_no_two_pods_get_one_key(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """Pods that start at the same time get one key each, and each key is used once."""
    host = kind(new_host, control)
    before = {key["id"] for key in control.auth_keys()}
    pods = [host.sandbox(Pod.enrolled(f"many-{number}x", hostname="many")) for number in range(6)]
    threads = [threading.Thread(target=host.runtime.add, args=(pod,)) for pod in pods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({host.addresses(pod)[0] for pod in pods}) == len(pods)
    made = [key for key in control.auth_keys() if key["id"] not in before]
    assert [key["used"] for key in made] == [True] * len(pods)


SILENT = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
print("heard", flush=True)
sys.stdin.read()
"""


def test_nobody_waits_for_another_pods_key(new_host: NewHost, control: ControlPlane) -> None:
    """While an ADD waits for the API, other calls do not wait and do not start its node without a key. Its DEL does not wait either."""
    host = oauth(new_host, control, readyTimeout="60s")
    with host.netns.daemon([sys.executable, "-IS", "-c", SILENT], host.root / "silent") as silent:
        host.configure(apiURL=f"http://127.0.0.1:{silent.first_line().strip()}")
        waits = host.sandbox(Pod.enrolled("waits"))
        previous = host.runtime.add_primary(waits)
        argv = host.netns.within(host.runtime.plugin)
        environ = CLEAN | host.runtime.environ("ADD", waits)
        with Daemon(argv, log=host.root / "add.log", env=environ) as add:
            add.stdin.write(json.dumps(host.runtime.entry(waits, prevResult=previous)).encode())
            add.stdin.close()
            assert silent.first_line() == "heard\n"
            host.configure(apiURL=control.url)
            host.addresses(host.start(Pod.enrolled("other")))
            assert not (host.run_dir / host.id(waits)).exists()
            host.runtime.chained("DEL", waits)
            process = Process.of(add.pid)
            assert process and process.alive
            assert host.id(waits) not in [path.name for path in host.run_dir.iterdir()]


@KINDS
def test_nothing_of_a_key_or_a_secret_is_to_be_read(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """During and after ADD no argument, environment, log or file contains the key or the secret, except the secret's own file."""
    host = kind(new_host, control)
    before = {key["id"] for key in control.auth_keys()}
    sandbox = host.sandbox(Pod.enrolled("secret"))
    adding = threading.Thread(target=host.runtime.add, args=(sandbox,))
    adding.start()
    said = _said()
    while adding.is_alive():
        said |= _said()
    adding.join()
    host.addresses(sandbox)
    said |= _said()
    (key,) = [key["id"] for key in control.auth_keys() if key["id"] not in before]
    for word in (key, _secret(host), "tskey-api-"):
        assert not [text for text in said if word in text and str(host.root) in text]
        holders = [path for path in host.root.rglob("*") if path.is_file() and word in _text(path)]
        assert holders in ([], [host.root / "oauth"], [host.root / "apikey"]), word
        assert word not in host.logs()
    for process in host.nodes():
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        assert [line.split()[4] for line in limits if line.startswith("Max core file size")] == ["0"]
    host.runtime.delete(sandbox)
    assert key not in "".join(_text(path) for path in host.root.rglob("*") if path.is_file())


def _said() -> set[str]:
    """The command line and the environment of each process on this machine."""
    return {"\0".join((*process.argv, process.environ)) for process in processes()}


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


@KINDS
def test_a_pod_starts_while_the_control_plane_is_down(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """ADD succeeds although no key can be made, and the pod is on the tailnet within 15 s of the control plane's return."""
    host = kind(new_host, control, readyTimeout="300ms")
    with control.outage():
        web = host.start(Pod.enrolled("keyless"))
        assert web.interface("ts0").addresses == []
    wait_until(lambda: host.running(web), 15, what="the pod on the tailnet")


@KINDS
def test_a_pod_that_requires_the_tailnet_fails_without_a_key(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """With ``required``, ADD fails with code 11 and names pod and control plane. A retry after the outage succeeds."""
    host = kind(new_host, control, readyTimeout="20s")
    pod = host.sandbox(Pod.enrolled("must", required="true"))
    previous = host.runtime.add_primary(pod)
    with control.outage(), pytest.raises(CNIError) as error:
        host.runtime.chained("ADD", pod, prevResult=previous)
    assert error.value.code == 11
    assert "default/must" in error.value.msg
    assert control.url in error.value.msg

    wait_until(lambda: _adds(host, pod, previous), 15, what="an ADD that succeeds")
    assert host.addressed(pod)


def _adds(host: Host, pod: Sandbox, previous: dict[str, Any]) -> bool:
    """Whether ADD succeeds when the runtime retries it."""
    done = host.runtime.exec_plugin(
        host.runtime.environ("ADD", pod), host.runtime.entry(pod, prevResult=previous)
    )
    answer = json.loads(done.stdout)
    assert done.returncode == 0 or answer["code"] == 11, answer
    return done.returncode == 0


@pytest.mark.long
def test_the_time_to_live_of_a_key_decides_nothing(new_host: NewHost, control: ControlPlane) -> None:
    """With keys that expire after a second, pods are connected within 15 s of the end of an outage of a minute.

    For one pod no key could be made at ADD. For another pod a key was made, but expired before the node could use it.
    Both pods exist with each kind of control plane.
    """
    hosts = [kind(new_host, control, authKeyTTL="1s", readyTimeout="300ms") for kind in (oauth, headscale)]
    for host in hosts:
        host.netns.run("nft", "--file", "-", stdin=NO_LOGIN.format(address=control.address))
    pods = [(host, host.start(Pod.enrolled("ttl-key-made"))) for host in hosts]
    with control.outage():
        pods += [(host, host.start(Pod.enrolled("ttl-no-key"))) for host in hosts]
        with Daemon(["sleep", "60"], log=hosts[0].root / "sleep") as minute:
            assert minute.stdout.read() == b""
        for host in hosts:
            host.netns.run("nft", "delete table inet away")
    wait_until(lambda: all(host.running(pod) for host, pod in pods), 15, what="all pods on the tailnet")


NO_LOGIN = """
table inet away {{
  chain out {{
    type filter hook output priority 0
    meta skuid >= 2000000000 ip daddr {address} reject
  }}
}}
"""
"""Root reaches the API. Workers cannot reach the control plane."""


@KINDS
def test_a_refusal_is_told_and_leaves_nothing(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """A refused credential fails ADD with code 122, pod and file, and leaves nothing. With a valid one, the next try starts the pod."""
    host = kind(new_host, control)
    file, secret = next(host.root.glob("oauth" if kind is oauth else "apikey")), _secret(host)
    spoilt = secret[:-4] + "0000"
    file.write_text(spoilt)
    web = host.sandbox(Pod.enrolled("refused"))
    with pytest.raises(CNIError) as error:
        host.runtime.add(web)
    assert error.value.code == 122
    assert "pod default/refused" in error.value.msg
    assert str(file) in error.value.msg + error.value.details
    assert spoilt not in error.value.msg + error.value.details
    host.runtime.delete(web)
    assert "ts0" not in web.netns.links()
    assert host.processes() == []
    file.write_text(secret)
    wait_until(lambda: _starts(host, web.pod), what="a try that succeeds")


def _starts(host: Host, pod: Pod) -> bool:
    """Start another sandbox of the pod, as the runtime does in a retry. Returns True."""
    host.addresses(host.start(pod))
    return True


@KINDS
def test_a_deleted_node_gets_a_key_of_its_own_again(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """A node that an admin deletes registers again with a new auth key, as a new node."""
    host = kind(new_host, control)
    web = host.start(Pod.enrolled("anew"))
    host.addresses(web)
    old = control.node("anew")
    assert old
    control.delete_node(old["id"])
    new = wait_until(lambda: control.node("anew"), what="a new node")
    assert new["nodeKey"] != old["nodeKey"]
