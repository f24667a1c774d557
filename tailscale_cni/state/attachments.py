"""Attachments: what ADD did, all that DEL, CHECK and GC need of it.

One directory per container, which is also its lock; one file per network and interface in it. Read
tolerantly: unknown keys are kept out, missing ones have defaults, so that the previous version can read
what this one wrote.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors, linux
from ..config import RUN_DIR
from ..tailnet import overlapping
from . import files

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_SECONDS = 30.0
"""How long a call waits for another one of the same container."""


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
    version: int = 1

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

    def to_json(self) -> dict[str, Any]:
        """As it is on the disk."""
        return self._asdict()

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Attachment:
        """From the disk. Raises TypeError if what every attachment has is missing, ValueError for a wrong type."""
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in document.items()
            if key in cls._fields
        }
        attachment = cls(**known)
        for name, value in zip(cls._fields, attachment, strict=True):
            if not _is_like(value, cls._field_defaults.get(name, "")):
                raise ValueError(f"{name} has a wrong type")
        return attachment


def _is_like(value: object, default: object) -> bool:
    """Whether a field may have this value: it is of its default's type, text if it has none; what may be None is a number."""
    if isinstance(value, tuple):
        return isinstance(default, tuple) and all(isinstance(item, str) for item in value)
    return isinstance(value, int | type(None) if default is None else type(default))


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
        files.write_json(attachment.record, attachment.to_json())

    def forget(self, attachment: Attachment) -> None:
        """The last step of a removal."""
        files.remove(attachment.record)

    def get(self, network: str, container_id: str, ifname: str) -> Attachment | None:
        """The attachment, if it is there; of one that cannot be read, what its place says, so that it can be unmade."""
        path = _record(self.state_dir, network, container_id, ifname)
        try:
            document = files.read_json(path)
            return None if document is None else Attachment.from_json(document)
        except (errors.UnreadableState, TypeError, ValueError):
            self._keep_a_copy(path)
            return self._bare(network, container_id, ifname)

    def current(self, attachment: Attachment) -> Attachment | None:
        """What it is by now; None if a DEL, or another ADD of the same container, has taken it away."""
        found = self.get(attachment.network, attachment.container_id, attachment.ifname)
        return found if found and found.nonce == attachment.nonce else None

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
        """For whoever wants to know what it was; the original goes with its container."""
        with contextlib.suppress(errors.Error, OSError):
            directory = f"{self.state_dir}/unreadable"
            files.make_directory(directory)
            with open(path, "rb") as f:
                files.write(f"{directory}/{os.path.basename(os.path.dirname(path))}", f.read(files.LARGEST))

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
        """Every one."""
        for place in self.places():
            attachment = self.get(*place)
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
