"""Attachments: what ADD did, with everything that DEL, CHECK and GC need.

``stateDir/attachments`` has a directory per container, which is also its lock. In it is a file per network and interface. The
JSON is flat, as version 0.1.0 wrote it: that version must be able to read what this one writes.
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

LOCK_SECONDS = 30.0
"""How long a call waits for another one of the same container."""

CHOICES = {
    "minter": ("static", "tailscale", "headscale"),
    "on_deleted": ("register", "stop"),
    "underlay": ("host", "pod"),
    "launcher": ("session", "systemd"),
}
"""Fields that have one of a few words."""

_id, _port = records.number(0, 2**32 - 2), records.number(0, 2**16 - 1)
PARSERS = {"uid": _id, "uid_base": _id, "port": _port, "mtu": _port}
"""Fields whose numbers the kernel takes."""


class Attachment(NamedTuple):
    """One pod's place in one network, and everything that was made for it.

    Addresses and networks are text, as in JSON.
    """

    network: str
    container_id: str
    ifname: str
    netns: str
    state_dir: str
    run_dir: str
    nonce: str
    """Tells this ADD from a later one of the same container."""
    boot_id: str = ""
    netns_inode: int = 0
    netns_cookie: int | None = None
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    name: str = ""
    """What the pod wants its node to be called."""
    wanted: int | None = None
    """The number among those of this name that the pod wants; None: the lowest that is free."""
    number: int = 0
    hostname: str = ""
    """What it is called by its number."""
    identity: str = ""
    """The keys that it has, where they outlive the pod; empty: those of the attachment itself."""
    kubeconfig: str = ""
    """What gives access to the cluster that has its identity, too (``state.vault``); empty: it is on this disk alone."""
    seeks_name: bool = False
    """Whether a pod of another host may have its name for a while, as in a rolling update; it is an ephemeral node, then."""
    lost: bool = False
    """Its identity is another host's by now: nothing may run as it here."""
    former: tuple[str, ...] = ()
    """Identities that it had, until its processes begin anew with the one that it has."""
    since: int = 0
    """When it was added: CLOCK_BOOTTIME, in nanoseconds."""
    handover_window: float = 0.0
    """How long after that it may still move to a better number, in seconds."""
    tags: tuple[str, ...] = ()
    ephemeral: bool = True
    required: bool = False
    on_deleted: str = "register"
    """What becomes of a node that is deleted from the tailnet: register or stop."""
    control_url: str = ""
    minter: str = "static"
    """Who makes its auth keys: static, tailscale or headscale."""
    credential_file: str = ""
    api_url: str = ""
    headscale_user: str = ""
    auth_key_seconds: int = 600
    proxy_url: str = ""
    """Through which its control plane and API are asked; it may hold a password."""
    underlay: str = "host"
    interface: str = "ts0"
    mtu: int = 1280
    pod_addresses: tuple[str, ...] = ()
    host_addresses: tuple[str, ...] = ()
    """The host's own addresses in the tailnet's ranges: its probes come from there."""
    cluster_cidrs: tuple[str, ...] = ()
    anti_spoofing: bool = True
    port_mapping: bool = False
    launcher: str = "session"
    uid: int = 0
    """The worker's; 0 as long as it is not claimed, as for the port."""
    uid_base: int = 0
    port: int = 0
    build: str = ""
    version: int = records.VERSION
    unknown: str = ""
    """What a newer version wrote and this one does not know (``records``)."""

    @property
    def id(self) -> str:
        """Short enough for a socket's path and a unit's name."""
        return identify(self.network, self.container_id, self.ifname)

    @property
    def who(self) -> str:
        """As a person calls it."""
        return f"pod {self.namespace}/{self.pod}" if self.pod else f"container {self.container_id}"

    @property
    def routes_per_peer(self) -> bool:
        """Whether the cluster uses addresses of the tailnet's ranges: then only those of peers may go to the tailnet."""
        networks = (*self.cluster_cidrs, *self.pod_addresses)
        return bool(overlapping(tuple(ipaddress.ip_network(network) for network in networks)))

    @property
    def worker_uids(self) -> tuple[int, int]:
        """The first and the last user ID that a worker of this host may have."""
        return self.uid_base, self.uid_base + UID_COUNT - 1

    @property
    def record(self) -> str:
        """The file that this is in."""
        return _record(self.state_dir, self.network, self.container_id, self.ifname)

    @property
    def key(self) -> str:
        """What its keys, uid and port are claimed by."""
        return self.identity or self.id

    @property
    def identity_dir(self) -> str:
        """Where the node's keys are."""
        return f"{self.state_dir}/identities/{self.key}"

    @property
    def worker_dir(self) -> str:
        """Where the node's socket is."""
        return f"{self.run_dir}/{self.id}"

    @property
    def socket(self) -> str:
        """The node's LocalAPI."""
        return f"{self.worker_dir}/local.sock"

    @property
    def log(self) -> str:
        """Where the node's log is, as a person finds it."""
        return f"journalctl -u {self.unit}" if self.launcher == "systemd" else f"{self.worker_dir}/log"

    @property
    def unit(self) -> str:
        """The node's unit, where there is systemd."""
        return f"tailscale-cni-{self.id}.service"


def _check(attachment: Attachment) -> None:
    """Raises ValueError for what has the right types and still would make a call fail, or be about other files than its own."""
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
    """The attachment that a file has; None if there is no file. Raises UnreadableState, InputOutput."""
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
    """All attachments of a host. Whoever changes one holds its container's lock."""

    def __init__(self, state_dir: str) -> None:
        """``state_dir`` need not exist as long as nothing is written."""
        self.state_dir = state_dir
        self.root = f"{state_dir}/attachments"

    @contextlib.contextmanager
    def locked(
        self, container_id: str, *, create: bool = False, seconds: float = LOCK_SECONDS
    ) -> Iterator[bool]:
        """Hold a container's lock; whether anything is known of it. Raises Busy after ``seconds``.

        An empty container leaves no directory, nor what a call left in it that was killed while it wrote.
        """
        directory = f"{self.root}/{container_id}"
        with files.locked(directory, seconds, f"container {container_id}", create=create) as there:
            try:
                yield there
            finally:
                if there and not self._names(container_id):
                    files.remove_tree(directory)

    def save(self, attachment: Attachment) -> None:
        """Write one down."""
        files.write(attachment.record, records.encode(attachment))

    def forget(self, attachment: Attachment) -> None:
        """The last step of a removal."""
        files.clear(attachment.record)

    def get(self, network: str, container_id: str, ifname: str) -> Attachment | None:
        """The attachment, if there is one. If its file cannot be read, it is what the file's place says, so that it can be unmade.

        Raises InputOutput for a disk that fails.
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
        """What it is by now; None if a DEL, or another ADD of the same container, has taken it away."""
        found = self.get(attachment.network, attachment.container_id, attachment.ifname)
        return found if found and found.nonce == attachment.nonce else None

    def _in_place(self, attachment: Attachment) -> Attachment:
        """With the state directory in which it was found. The one in the record is that, perhaps spelled otherwise, or is wrong."""
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
        """Copy a file for a person to look at. The original goes with its container."""
        with contextlib.suppress(errors.Error, OSError):
            content = files.read_bytes(path)
            if content is not None:
                directory = f"{self.state_dir}/unreadable"
                files.make_directory(directory)
                files.put(f"{directory}/{os.path.basename(os.path.dirname(path))}", content, 0o600)

    def at(self, record: str) -> Attachment | None:
        """By the file that it is in."""
        directory, name = os.path.split(record)
        network, _, ifname = name.removesuffix(".json").partition("@")
        return self.get(network, os.path.basename(directory), ifname)

    def of_container(self, container_id: str, ifname: str) -> list[Attachment]:
        """All of a container and interface, whatever their network is called by now."""
        return [one for one in self.in_container(container_id) if one.ifname == ifname]

    def in_container(self, container_id: str) -> list[Attachment]:
        """All of a container."""
        found = [self.get(network, container_id, name) for network, name in self._names(container_id)]
        return [attachment for attachment in found if attachment]

    def with_id(self, attachment_id: str) -> Attachment | None:
        """By the short id that units and sockets carry."""
        found = (self.get(*place) for place in self.places() if identify(*place) == attachment_id)
        return next(found, None)

    def all(self) -> Iterator[Attachment]:
        """Every one. If the disk fails for one, that one is what its place says."""
        for place in self.places():
            try:
                attachment = self.get(*place)
            except errors.InputOutput as e:
                records.warn(str(e))
                attachment = self._bare(*place)
            if attachment:
                yield attachment

    def places(self) -> Iterator[tuple[str, str, str]]:
        """Network, container and interface of every one, without a look at what is known of it."""
        for container_id in sorted(os.listdir(self.root)) if os.path.isdir(self.root) else ():
            for network, ifname in self._names(container_id):
                yield network, container_id, ifname

    def run_dir(self) -> str:
        """Where the processes of those of now are; earlier ones may be elsewhere, as their records say."""
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
