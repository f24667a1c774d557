"""The steps that make a pod a node and unmake it: shared by the verbs and by what the supervisor runs.

Every step can be done again after a crash in the middle of it. No lock is held while anything waits for the
network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import socket
import time
from typing import TYPE_CHECKING

from .. import artefact, errors, linux
from ..cni import result
from ..config import UID_COUNT, Config
from ..control.static import StaticKey
from ..state import files
from ..state.attachments import LOCK_SECONDS, Attachment, Attachments
from ..state.claims import Claims
from ..tailnet import overlapping as tailnet_overlaps
from ..worker import cgroup, launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cni.request import Request
    from ..control import AuthKey
    from ..net.model import PodNetwork, Tailnet
    from ..policy import PodIntent
    from ..worker.localapi import LocalApi, Node

LOGOUT_SECONDS = 1.5
POLL_SECONDS = 0.015


# --- the pod's network namespace
# ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def pod_netns(path: str | None) -> Iterator[int]:
    """A descriptor of the pod's namespace, before anything is done.

    Raises InvalidNetns, also for the plugin's own.
    """
    netns = linux.open_netns(path or "")
    try:
        if linux.is_own_netns(netns):
            raise errors.InvalidNetns(path=errors.show(path), reason="it is the plugin's own")
        yield netns
    finally:
        os.close(netns)


@contextlib.contextmanager
def recorded_netns(attachment: Attachment) -> Iterator[int | None]:
    """A descriptor of the namespace that ADD configured; None if it is gone, or another one is at its path.

    Inode numbers are reused at once, so the cookie decides; where the kernel has none, the inode and our
    interface.
    """
    try:
        netns = linux.open_netns(attachment.netns)
    except errors.InvalidNetns:
        yield None
        return
    try:
        yield netns if _is_recorded(attachment, netns) else None
    finally:
        os.close(netns)


def _is_recorded(attachment: Attachment, netns: int) -> bool:
    if attachment.boot_id != linux.boot_id():
        return False
    with linux.in_netns(netns):
        cookie = linux.netns_cookie()
        if cookie is not None:
            return cookie == attachment.netns_cookie
        return os.fstat(netns).st_ino == attachment.netns_inode and linux.interface_exists(
            attachment.interface
        )


# --- becoming a node
# ---------------------------------------------------------------------------------------------------------


def begin(request: Request, config: Config, intent: PodIntent, netns: int) -> Attachment:
    """Record the attachment, make its interface and start its processes.

    The same attachment again changes nothing.

    A container ID that comes back with another pod or another namespace is another pod: the old one is
    removed first, and logged out, so that its name is free.
    """
    store = Attachments(config.state_dir)
    former = store.get(request.network, request.container_id, request.ifname)
    if former and not _is_same_pod(former, request, netns):
        end(former)
    make_roots(config.state_dir, config.run_dir)
    with store.locked(request.container_id, create=True):
        attachment = store.get(request.network, request.container_id, request.ifname)
        if attachment and not (_is_complete(attachment) and _is_same_pod(attachment, request, netns)):
            _unmake(store, attachment)
            attachment = None
        if attachment is None:
            attachment = _record(store, request, config, intent, netns)
        if not launch.supervised(attachment):
            _start(store, attachment, netns)
    return attachment


def make_roots(state_dir: str, run_dir: str) -> None:
    """The directories that everything is in. Raises UnsafeDirectory."""
    files.make_directory(state_dir, 0o711)
    for name in ("attachments", "identities"):
        files.make_directory(f"{state_dir}/{name}")
    files.make_directory(run_dir)
    link = f"{state_dir}/run"  # a record that cannot be read does not say where its socket is
    if files.read_link(link, "") != run_dir:
        files.remove(link)
        with contextlib.suppress(FileExistsError):  # another first ADD of this host
            os.symlink(run_dir, link)


def _is_complete(attachment: Attachment) -> bool:
    """Whether it was recorded to its end, and can be read."""
    return bool(attachment.uid and attachment.port)


def _is_same_pod(attachment: Attachment, request: Request, netns: int) -> bool:
    return attachment.pod_uid == _pod_uid(request) and _is_recorded(attachment, netns)


def _pod_uid(request: Request) -> str:
    return (request.pod and request.pod.uid) or ""


def _record(
    store: Attachments, request: Request, config: Config, intent: PodIntent, netns: int
) -> Attachment:
    """On the disk first as a name, so that claims name a holder that can be found.

    Then with what it claimed.
    """
    with linux.in_netns(netns):
        cookie = linux.netns_cookie()
    attachment = Attachment(
        network=request.network,
        container_id=request.container_id,
        ifname=request.ifname,
        netns=request.netns or "",
        state_dir=config.state_dir,
        run_dir=config.run_dir,
        nonce=os.urandom(8).hex(),
        boot_id=linux.boot_id(),
        netns_inode=os.fstat(netns).st_ino,
        netns_cookie=cookie,
        namespace=request.pod.namespace if request.pod else "",
        pod=request.pod.name if request.pod else "",
        pod_uid=_pod_uid(request),
        hostname=intent.hostname,
        tags=intent.tags,
        ephemeral=intent.ephemeral,
        required=intent.required,
        control_url=config.control_url,
        auth_key_file=config.auth_key_file,
        underlay=config.underlay,
        pod_addresses=tuple(str(address.ip) for address in result.pod_addresses(request.prev_result or {})),
        cluster_cidrs=tuple(str(network) for network in config.cluster_cidrs),
        anti_spoofing=config.anti_spoofing,
        port_mapping=config.port_mapping,
        launcher=_launcher(config.launcher),
        uid_base=config.uid_base,
        build=artefact.build_id(),
    )
    store.save(attachment)
    uids = Claims(config.state_dir, "uid")
    uid = uids.take(
        attachment.id, (config.uid_base, config.uid_base + UID_COUNT - 1), "uidBase", lambda _: True
    )
    port = Claims(config.state_dir, "port").take(attachment.id, config.ports, "ports", _is_free)
    attachment = dataclasses.replace(attachment, uid=uid, port=port)
    store.save(attachment)
    return attachment


def _launcher(configured: str) -> str:
    if configured == "auto":
        return "systemd" if linux.booted_with_systemd() else "session"
    return configured


def _is_free(port: int) -> bool:
    """Whether nobody else on the host has the UDP port: tailscale would silently take another one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def restart(attachment: Attachment, netns: int) -> None:
    """Start the processes of an attachment again, if they do not run."""
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.get(attachment.network, attachment.container_id, attachment.ifname)
        if current and current.nonce == attachment.nonce and not launch.supervised(current):
            _start(store, current, netns)


def _start(store: Attachments, attachment: Attachment, netns: int) -> None:
    """Everything that a node needs before it has an address.

    The processes register while Python configures.
    """
    if not is_registered(attachment):
        mint(attachment)  # a key that is missing is told here, where a person sees it
    _make_identity(attachment)
    _launch(attachment, netns)
    from ..net import host, pod  # 100 ms, while the node registers

    if attachment.underlay == "host":
        with files.locked(store.root, LOCK_SECONDS, "the host's rules", create=False, shared=True):
            host.ensure_uid_rule(*_uids(attachment))
    attachment = dataclasses.replace(
        attachment, host_addresses=tuple(map(str, host.host_tailnet_addresses()))
    )
    store.save(attachment)
    network = pod_network(attachment)
    with linux.in_netns(netns):
        pod.prepare(network)


def _launch(attachment: Attachment, netns: int) -> None:
    """Make the interface and start the processes, unless an ADD that was killed did: then they hold the interface."""
    try:
        with linux.in_netns(netns):
            os.close(launch.open_tun(attachment))
    except errors.NoTun:
        if launch.supervised(attachment):
            return
        raise
    launch.start(attachment, artefact.executable())


def is_registered(attachment: Attachment) -> bool:
    """Whether the node has keys: then it needs no auth key to be the same node again."""
    return os.path.exists(f"{attachment.identity_dir}/tailscaled.state")


def mint(attachment: Attachment) -> AuthKey:
    """An auth key for the node. Raises NoAuthKey."""
    minter = StaticKey(attachment.auth_key_file)
    return minter.mint(hostname=attachment.hostname, tags=attachment.tags, ephemeral=attachment.ephemeral)


def _make_identity(attachment: Attachment) -> None:
    """The directory of the node's keys, the worker's alone."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(attachment.identity_dir, 0o700)
    os.chown(attachment.identity_dir, attachment.uid, attachment.uid, follow_symlinks=False)


def connect(attachment: Attachment, seconds: float) -> None:
    """Wait for the node's tailnet address, and configure it.

    After ``seconds`` the pod starts without: the supervisor configures the address when it comes. Raises
    NotConnected for a pod that
    must not start off the tailnet, DeletedMeanwhile.
    """
    node = _await_running(attachment, seconds)
    if node and node.running:
        synchronise(attachment, node)
    elif attachment.required:
        state = node.state if node else "it does not answer"
        raise errors.NotConnected(pod=attachment.who, seconds=seconds, state=state, log=attachment.log)


def _await_running(attachment: Attachment, seconds: float) -> Node | None:
    deadline = time.monotonic() + seconds
    node = None
    while time.monotonic() < deadline:
        try:
            api = local_api(attachment, max(0.1, deadline - time.monotonic()))
            node = api.node(peers=attachment.routes_per_peer)
            if node.running:
                return node
        except errors.LocalApiFailed:
            _still_wanted(attachment)
        time.sleep(POLL_SECONDS)
    _still_wanted(attachment)
    return node


def _still_wanted(attachment: Attachment) -> None:
    """Raises DeletedMeanwhile if a DEL, or another ADD, has taken the attachment away."""
    store = Attachments(attachment.state_dir)
    current = store.get(attachment.network, attachment.container_id, attachment.ifname)
    if current is None or current.nonce != attachment.nonce:
        raise errors.DeletedMeanwhile(pod=attachment.who)


def synchronise(attachment: Attachment, node: Node) -> None:
    """Give the pod's interface exactly the node's addresses and routes. Raises DeletedMeanwhile."""
    from ..net import pod

    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.get(attachment.network, attachment.container_id, attachment.ifname)
        if current is None or current.nonce != attachment.nonce:
            raise errors.DeletedMeanwhile(pod=attachment.who)
        with recorded_netns(current) as netns:
            if netns is None:
                raise errors.DeletedMeanwhile(pod=attachment.who)
            with linux.in_netns(netns):
                pod.prepare(pod_network(current))
                pod.apply(pod_network(current), tailnet(node))
        addresses = tuple(str(address) for address in node.addresses)
        if (addresses, True) != (current.addresses, current.was_running):
            store.save(dataclasses.replace(current, addresses=addresses, was_running=True))


def local_api(attachment: Attachment, seconds: float = 5.0) -> LocalApi:
    """The node's LocalAPI."""
    from ..worker.localapi import LocalApi  # http.client takes long to import: while the node registers

    return LocalApi(attachment.socket, attachment.log, seconds)


def pod_network(attachment: Attachment) -> PodNetwork:
    """An attachment as the network code sees it."""
    from ..net import model

    clusters = tuple(ipaddress.ip_network(network) for network in attachment.cluster_cidrs)
    return model.PodNetwork(
        interface=attachment.interface,
        mtu=attachment.mtu,
        pod_interface=attachment.ifname,
        pod_addresses=tuple(ipaddress.ip_address(address) for address in attachment.pod_addresses),
        host_sources=(
            *(ipaddress.ip_network(address) for address in attachment.host_addresses),
            *tailnet_overlaps(clusters),
        ),
        cluster_cidrs=clusters,
        anti_spoofing=attachment.anti_spoofing,
        worker_uid_range=_uids(attachment) if attachment.underlay == "pod" else None,
    )


def _uids(attachment: Attachment) -> tuple[int, int]:
    return attachment.uid_base, attachment.uid_base + UID_COUNT - 1


def tailnet(node: Node) -> Tailnet:
    """A node as the network code sees it."""
    from ..net import model

    return model.Tailnet(addresses=node.addresses, peers=node.peers)


# --- no longer being one
# -----------------------------------------------------------------------------------------------------


def end(attachment: Attachment) -> None:
    """Log out, and remove everything that was made for an attachment.

    Nothing of it need be there any more.
    """
    if attachment.ephemeral:
        log_out(attachment)
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.get(attachment.network, attachment.container_id, attachment.ifname)
        if current and current.nonce == attachment.nonce:
            _unmake(store, current)
    _tidy(store, attachment)


def _tidy(store: Attachments, last: Attachment) -> None:
    """After the last node of a host, nothing is left of it either."""
    with files.locked(store.root, LOCK_SECONDS, "the host's rules", create=False) as there:
        if not there or any(store.all()):
            return
        files.remove(f"{last.state_dir}/run")
        if last.underlay == "host" and last.uid_base:
            from ..net import host

            host.remove_uid_rule(*_uids(last))


def log_out(attachment: Attachment) -> None:
    """Let the control plane forget the node at once.

    One that is down forgets an ephemeral node by its own time-out.
    """
    with contextlib.suppress(errors.LocalApiFailed):
        if launch.running(attachment):
            local_api(attachment, LOGOUT_SECONDS).logout()


def _unmake(store: Attachments, attachment: Attachment) -> None:
    """In the reverse order of making, the record last. Its container's lock is held."""
    launch.end(attachment)
    with recorded_netns(attachment) as netns:
        if netns is not None:
            from ..net import pod

            network = pod_network(attachment)
            with linux.in_netns(netns):
                pod.remove(network)
    discard(store, attachment)


def discard(store: Attachments, attachment: Attachment) -> None:
    """Remove the files of an attachment whose processes and interface are gone."""
    files.remove_tree(attachment.worker_dir)
    files.remove_tree(attachment.identity_dir)
    Claims(attachment.state_dir, "port").release(attachment.id, attachment.port)
    Claims(attachment.state_dir, "uid").release(attachment.id, attachment.uid)
    store.forget(attachment)


def reap(attachment: Attachment) -> None:
    """What the supervisor becomes when the pod's namespace is gone: nobody is left to end but ourselves."""
    cgroup.leave()
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.get(attachment.network, attachment.container_id, attachment.ifname)
        if current and current.nonce == attachment.nonce:
            discard(store, current)
    cgroup.remove(attachment.id)
    _tidy(store, attachment)
