"""Attachments: records of what ADD did, with everything that DEL, CHECK and GC need.

``stateDir/attachments`` has a directory per container, which is also the container's lock. The directory has a file per network and
interface. The JSON is flat, as in version 0.1.0, because version 0.1.0 must be able to read what this version writes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from typing import TYPE_CHECKING, NamedTuple

from .. import errors, linux
from ..config import RUN_DIR, UID_COUNT
from ..tailnet import overlapping
from . import files, records

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_TIMEOUT = 30.0
"""How long a call waits for another call of the same container."""

CHOICES = {
    "minter": ("static", "tailscale", "headscale"),
    "on_deleted": ("register", "stop"),
    "underlay": ("host", "pod"),
    "launcher": ("session", "systemd"),
}
"""Fields that accept only these words."""

_id, _port = records.number(0, 2**32 - 2), records.number(0, 2**16 - 1)
PARSERS = {"uid": _id, "uid_base": _id, "port": _port, "mtu": _port}
"""Parsers of the numbers that are passed to the kernel."""


class Attachment(NamedTuple):
    """The attachment of one container to one network, and everything that ADD created for it.

    Addresses and networks are text, as in JSON.
    """

    network: str
    container_id: str
    ifname: str
    netns: str
    state_dir: str
    run_dir: str
    nonce: str
    """A random value that distinguishes this ADD from a later ADD of the same container."""
    boot_id: str = ""
    netns_inode: int = 0
    netns_cookie: int | None = None
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    name: str = ""
    """The name that the pod wants for its node, without the number."""
    wanted: int | None = None
    """The number that the pod wants for this name; None means the lowest free number."""
    number: int = 0
    hostname: str = ""
    """The hostname: the name and the number."""
    identity: str = ""
    """The key of the retained identity; empty if the node's keys belong to this attachment."""
    kubeconfig: str = ""
    """The kubeconfig of the cluster that also stores the identity (``identity.secret_store``); empty if only this disk has it."""
    seeks_name: bool = False
    """Whether a pod on another host may have the name for a while, as in a rolling update. The node is ephemeral then."""
    lost: bool = False
    """Whether another host has the identity now. Nothing may run with the identity on this host then."""
    former: tuple[str, ...] = ()
    """Identities that the pod had, until the pod's processes restart with the current identity."""
    since: int = 0
    """When the pod was added: CLOCK_BOOTTIME, in nanoseconds."""
    handover_window: float = 0.0
    """How long after ``since`` the pod may still move to a lower number, in seconds."""
    tags: tuple[str, ...] = ()
    ephemeral: bool = True
    required: bool = False
    on_deleted: str = "register"
    """What to do when the running pod's node is deleted from the tailnet: register or stop."""
    control_url: str = ""
    minter: str = "static"
    """Where the pod's auth keys come from: static, tailscale or headscale."""
    credential_file: str = ""
    api_url: str = ""
    headscale_user: str = ""
    auth_key_seconds: int = 600
    proxy_url: str = ""
    """The proxy for the control plane and its API; the URL may contain a password."""
    underlay: str = "host"
    interface: str = "ts0"
    mtu: int = 1280
    pod_addresses: tuple[str, ...] = ()
    host_addresses: tuple[str, ...] = ()
    """The host's own addresses in the tailnet's ranges. Kubelet's probes come from them."""
    cluster_cidrs: tuple[str, ...] = ()
    anti_spoofing: bool = True
    port_mapping: bool = False
    launcher: str = "session"
    uid: int = 0
    """The worker's user ID; 0 until it is claimed. The same is true for ``port``."""
    uid_base: int = 0
    port: int = 0
    build: str = ""
    version: int = records.VERSION
    unknown: str = ""
    """Fields of a newer version that this version does not know (``records``)."""

    @property
    def id(self) -> str:
        """The attachment's ID: 12 hex digits, short enough for a socket's path and a unit's name."""
        return identify(self.network, self.container_id, self.ifname)

    @property
    def display_name(self) -> str:
        """The pod or container, as messages name it."""
        return f"pod {self.namespace}/{self.pod}" if self.pod else f"container {self.container_id}"

    @property
    def routes_per_peer(self) -> bool:
        """Whether the cluster uses addresses of the tailnet's ranges. Then only peers' addresses are routed to the tailnet."""
        networks = (*self.cluster_cidrs, *self.pod_addresses)
        return bool(overlapping(tuple(ipaddress.ip_network(network) for network in networks)))

    @property
    def worker_uids(self) -> tuple[int, int]:
        """The first and the last user ID that a worker of this host may have."""
        return self.uid_base, self.uid_base + UID_COUNT - 1

    @property
    def record(self) -> str:
        """The path of the attachment's file."""
        return _record(self.state_dir, self.network, self.container_id, self.ifname)

    @property
    def key(self) -> str:
        """The key of the identity: keys, uid and port are claimed under this name."""
        return self.identity or self.id

    @property
    def identity_dir(self) -> str:
        """The directory of the node's keys."""
        return f"{self.state_dir}/identities/{self.key}"

    @property
    def worker_dir(self) -> str:
        """The directory of the node's socket."""
        return f"{self.run_dir}/{self.id}"

    @property
    def socket(self) -> str:
        """The path of the node's LocalAPI socket."""
        return f"{self.worker_dir}/local.sock"

    @property
    def log(self) -> str:
        """Where to find the node's log: a journalctl command or a path."""
        return f"journalctl -u {self.unit}" if self.launcher == "systemd" else f"{self.worker_dir}/log"

    @property
    def unit(self) -> str:
        """The name of the node's systemd unit, for hosts with systemd."""
        return f"tailscale-cni-{self.id}.service"


def _check(attachment: Attachment) -> None:
    """Raise ValueError for values of the right type that would make a call fail or lead to another attachment's files."""
    for address in (*attachment.pod_addresses, *attachment.host_addresses):
        ipaddress.ip_address(address)
    for network in attachment.cluster_cidrs:
        ipaddress.ip_network(network)
    for part in (attachment.identity, *attachment.former, attachment.namespace, attachment.name):
        records.word(part)
    for path in (attachment.run_dir, attachment.netns or "/"):
        if not path.startswith("/"):
            raise ValueError(f"{path} is no absolute path")
    for name, choices in CHOICES.items():
        if getattr(attachment, name) not in choices:
            raise ValueError(f"{name} is not what it should be")


def _load(path: str, place: tuple[str, str, str]) -> Attachment | None:
    """Read an attachment from a file; return None if there is no file. Raises UnreadableState, InputOutput."""
    attachment = records.load(Attachment, path, parsers=PARSERS)
    if attachment is None:
        return None
    if (attachment.network, attachment.container_id, attachment.ifname) != place:
        raise errors.UnreadableState(path=path, reason="it is about another container, network or interface")
    try:
        _check(attachment)
    except ValueError as e:
        raise errors.UnreadableState(path=path, reason=errors.show(str(e))) from None
    return attachment


def identify(network: str, container_id: str, ifname: str) -> str:
    """An attachment's id: 12 hex digits."""
    text = f"{network}\0{container_id}\0{ifname}".encode()
    return files.digest(text, 6)


def _record(state_dir: str, network: str, container_id: str, ifname: str) -> str:
    return f"{state_dir}/attachments/{container_id}/{network}@{ifname}.json"


class Attachments:
    """All attachments of a host. A caller that changes an attachment must hold its container's lock."""

    def __init__(self, state_dir: str) -> None:
        """``state_dir`` need not exist until something is written."""
        self.state_dir = state_dir
        self.root = f"{state_dir}/attachments"

    @contextlib.contextmanager
    def locked(
        self, container_id: str, *, create: bool = False, seconds: float = LOCK_TIMEOUT
    ) -> Iterator[bool]:
        """Hold a container's lock; yield whether the container has a directory. Raises Busy after ``seconds``.

        The directory of a container without attachments is removed at the end, with the temporary files of calls that were killed.
        """
        directory = f"{self.root}/{container_id}"
        with files.locked(directory, seconds, f"container {container_id}", create=create) as there:
            try:
                yield there
            finally:
                if there and not self._names(container_id):
                    files.remove_tree(directory)

    def save(self, attachment: Attachment) -> None:
        """Write an attachment to disk."""
        files.write(attachment.record, records.encode(attachment))

    def forget(self, attachment: Attachment) -> None:
        """Remove an attachment's file, as the last step of a removal."""
        files.clear(attachment.record)

    def get(self, network: str, container_id: str, ifname: str) -> Attachment | None:
        """The attachment, if there is one. Raises InputOutput if the disk fails.

        If the file cannot be read, the result has only what the file's path says, so that DEL can remove the attachment.
        """
        path = _record(self.state_dir, network, container_id, ifname)
        try:
            found = _load(path, (network, container_id, ifname))
            return found and self._in_place(found)
        except errors.UnreadableState as e:
            records.warn(f"{e}; its pod is no node any more when it ends, and then the file goes")
            self._keep_a_copy(path)
            return self._bare(network, container_id, ifname)

    def current(self, attachment: Attachment) -> Attachment | None:
        """Read the attachment again; return None if a DEL, or another ADD of the same container, has removed or replaced it."""
        found = self.get(attachment.network, attachment.container_id, attachment.ifname)
        return found if found and found.nonce == attachment.nonce else None

    def _in_place(self, attachment: Attachment) -> Attachment:
        """The attachment with the state directory in which it was found, unless the recorded path leads to the same directory."""
        recorded = attachment.state_dir
        is_same = recorded == self.state_dir or os.path.realpath(recorded) == os.path.realpath(self.state_dir)
        return attachment if is_same else attachment._replace(state_dir=self.state_dir)

    def _bare(self, network: str, container_id: str, ifname: str) -> Attachment:
        return Attachment(
            network=network,
            container_id=container_id,
            ifname=ifname,
            netns="",
            state_dir=self.state_dir,
            run_dir=self.run_dir(),
            nonce="",
            launcher="systemd" if linux.booted_with_systemd() else "session",
        )

    def _keep_a_copy(self, path: str) -> None:
        """Copy a file, so that a person can look at it. The original is removed with its container."""
        with contextlib.suppress(errors.Error, OSError):
            content = files.read_bytes(path)
            if content is not None:
                directory = f"{self.state_dir}/unreadable"
                files.make_directory(directory)
                files.put(f"{directory}/{os.path.basename(os.path.dirname(path))}", content, 0o600)

    def at(self, record: str) -> Attachment | None:
        """The attachment in this file, if there is one."""
        directory, name = os.path.split(record)
        network, _, ifname = name.removesuffix(".json").partition("@")
        return self.get(network, os.path.basename(directory), ifname)

    def of_container(self, container_id: str, ifname: str) -> list[Attachment]:
        """All attachments of a container and interface, in every network: the network may have been renamed."""
        return [one for one in self.in_container(container_id) if one.ifname == ifname]

    def in_container(self, container_id: str) -> list[Attachment]:
        """All attachments of a container."""
        found = [self.get(network, container_id, name) for network, name in self._names(container_id)]
        return [attachment for attachment in found if attachment]

    def with_id(self, attachment_id: str) -> Attachment | None:
        """The attachment with this ID, which names its unit and socket, if there is one."""
        found = (self.get(*place) for place in self.places() if identify(*place) == attachment_id)
        return next(found, None)

    def all(self) -> Iterator[Attachment]:
        """All attachments. If the disk fails for one of them, the result has only what its path says."""
        for place in self.places():
            try:
                attachment = self.get(*place)
            except errors.InputOutput as e:
                records.warn(str(e))
                attachment = self._bare(*place)
            if attachment:
                yield attachment

    def places(self) -> Iterator[tuple[str, str, str]]:
        """Network, container and interface of every attachment. Does not read the files."""
        for container_id in sorted(os.listdir(self.root)) if os.path.isdir(self.root) else ():
            for network, ifname in self._names(container_id):
                yield network, container_id, ifname

    def run_dir(self) -> str:
        """The run directory of new attachments. The records of earlier attachments may name another one."""
        return files.read_link(f"{self.state_dir}/run", RUN_DIR)

    def _names(self, container_id: str) -> list[tuple[str, str]]:
        try:
            names = os.listdir(f"{self.root}/{container_id}")
        except (FileNotFoundError, NotADirectoryError):
            return []
        pairs = [
            name.removesuffix(".json").partition("@") for name in sorted(names) if name.endswith(".json")
        ]
        return [(network, ifname) for network, _, ifname in pairs if not network.startswith(".")]
