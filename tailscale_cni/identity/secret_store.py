"""Identities in the cluster's Secrets, so that a node can move to another host with its pod.

There is a Secret per namespace, name and number. It has the node's keys, the record of their registration, and the host that holds them.
A change of a Secret names the version that was read (``resourceVersion``), so if two hosts want an identity, one of them gets it. An
identity is taken from another host only if that host cannot run it any more: the host has released it, its Node object is gone (compared
by UID, because a later Node can have the same name), or a person added the taint ``node.kubernetes.io/out-of-service``. So two hosts
never run one identity.

The content of a Secret is not trusted, because others may have write access. This module calls the API, and is slow to import.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from ..json_fields import as_dict, as_list, as_text, as_texts, as_word
from ..kube import client
from ..state import node_files, node_keys
from ..state.hostnames import MAX_NUMBERS
from ..tailnet import is_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping


NAMESPACE = "tailscale-cni"
"""A namespace for our Secrets only, so that read access to them gives no access to other Secrets."""

SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
KIND = "tailscale.com/identity"
"""The type of the Secrets. Kubernetes does not let it be changed."""

RECORD = "record.json"
MAX_RECORD = 16 * 2**10

TRIES = 5
"""How often a change is tried if other hosts change the Secret at the same time."""


class Holder(NamedTuple):
    """The host that holds an identity: its Node's name and UID, its host ID and boot ID, and the key of the identity on its disk."""

    node: str
    node_uid: str
    host: str
    boot: str
    key: str

    def is_same(self, other: Holder) -> bool:
        """Whether host and key are the same. The host's Node and boot may have changed."""
        return (self.host, self.key) == (other.host, other.key)


class Record(NamedTuple):
    """The registration of an identity's keys."""

    control_url: str = ""
    tags: tuple[str, ...] = ()
    node_id: str = ""
    node_key: str = ""
    port: int = 0
    """The node's last UDP port. The node gets the same port on a host where it is free."""


class Entry(NamedTuple):
    """An identity in the secret store."""

    number: int
    holder: Holder | None
    released_by: Holder | None
    record: Record
    files: Mapping[str, bytes]
    document: Mapping[str, Any]
    """The Secret as it was read. Fields that are not ours are preserved."""

    def __repr__(self) -> str:
        """Number and holder, without the keys."""
        return f"Entry({self.number}, {self.holder})"


class Taken(NamedTuple):
    """An identity that this host has taken, and messages for a person about lower numbers that it could not take."""

    entry: Entry
    refusals: tuple[str, ...] = ()


class Held(Exception):
    """An identity cannot be taken. The message is for a person; it is empty if nothing is wrong."""


class SecretStore:
    """The identities of one name of a namespace. Every call raises KubernetesFailed, KubernetesForbids."""

    def __init__(self, api: client.Api, namespace: str, name: str) -> None:
        """``namespace`` and ``name`` are DNS labels."""
        self.api = api
        self.namespace, self.name = namespace, name

    def secret_name(self, number: int) -> str:
        """The name of a Secret: a DNS subdomain of at most 133 characters."""
        return f"{self.namespace}.{self.name}.{number}"

    def entries(self) -> dict[int, Entry | None]:
        """All entries, by number; None for a Secret that cannot be read, which no host may take."""
        selector = f"tailscale.com/namespace%3D{self.namespace}%2Ctailscale.com/name%3D{self.name}"
        found = self.api.get(f"{SECRETS}?labelSelector={selector}")
        return dict(self._parsed(as_list(as_dict(found).get("items"))))

    def entry(self, number: int) -> Entry | None:
        """The entry of a number; None if there is none. Raises UnreadableState for a Secret that cannot be read."""
        found = self.api.get(f"{SECRETS}/{self.secret_name(number)}")
        if found is None:
            return None
        entry = dict(self._parsed([found])).get(number)
        if entry is None:
            raise errors.UnreadableState(
                path=f"the Secret {self.shown(number)}", reason="its format is invalid"
            )
        return entry

    def shown(self, number: int) -> str:
        """A Secret's namespace and name, for messages."""
        return f"{NAMESPACE}/{self.secret_name(number)}"

    def take(
        self,
        holder: Holder,
        number: int | None,
        taken: Collection[int],
        *,
        below: int | None = None,
        has: Callable[[str], bool] = lambda _: True,
    ) -> Taken | None:
        """Take the identity of ``number``, if that is given and free; else the lowest free number that is not in ``taken``.

        A missing Secret is free, and is created. If ``number`` is given, the existing identities of other numbers belong to other pods, so
        only a missing Secret is an alternative. With ``below``, only existing Secrets with a lower number are taken. A Secret that another
        host changes first is not free. ``has`` is whether the holder's host knows a key. Returns None if no identity is free.
        """
        entries, refusals = self.entries(), list[str]()
        wanted = range(MAX_NUMBERS if below is None else below)
        for candidate in itertools.chain([] if number is None else [number], wanted):
            is_anothers = number not in (None, candidate) and candidate in entries
            if candidate in taken or is_anothers or (below is not None and candidate not in entries):
                continue
            entry = entries.get(candidate, Entry(candidate, None, None, Record(), {}, {}))
            try:
                if entry is None:
                    raise Held(
                        f"the Secret {self.shown(candidate)} has an invalid format: correct it or delete it"
                    )
                self._check_free(entry, holder, has)
                if below and self._is_for_another(entries, below):
                    return None
                return Taken(self.save(entry._replace(holder=holder, released_by=None)), tuple(refusals))
            except Held as e:
                refusals += [str(e)] if str(e) else []
            except client.Conflict:
                continue
        return None

    def _check_free(self, entry: Entry, ours: Holder, has: Callable[[str], bool]) -> None:
        """Raise Held if an identity is not free. The message is empty if nothing is wrong."""
        held = entry.holder
        if held is None:
            return
        if (held.host, held.node) == (ours.host, ours.node):  # copies of a disk have different Nodes
            if has(held.key):
                raise Held
            return  # a call of ours took it after we had stopped waiting
        if (held.node, held.node_uid) == (ours.node, ours.node_uid):  # this host has lost its state
            if held.boot != ours.boot:
                return  # no process of its node survives a reboot
            raise Held(
                f"this host had the identity {self.shown(entry.number)} before its state directory was removed: if no process of its "
                "node still runs, delete the Secret"
            )
        node = self.api.node(held.node)
        if node is None or node.uid != held.node_uid or node.out_of_service:
            return
        if node.ready:
            raise Held
        raise Held(
            f"host {held.node} has the identity {self.shown(entry.number)} and is not Ready: if it is shut down for good, run "
            f"'kubectl delete node {held.node}'; if it is shut down for now, taint it {client.OUT_OF_SERVICE}"
        )

    def _is_for_another(self, entries: Mapping[int, Entry | None], number: int) -> bool:
        """Whether a pod on a Ready host has a worse number than ``number``. The pod with the worst number moves, as within one host."""
        worse = {one.holder for its, one in entries.items() if its > number and one and one.holder}
        nodes = ((self.api.node(holder.node), holder) for holder in worse)
        return any(node and node.ready and node.uid == holder.node_uid for node, holder in nodes)

    def save(self, entry: Entry) -> Entry:
        """Create or replace the Secret of an entry; return the entry with the new Secret. Raises client.Conflict."""
        metadata = as_dict(entry.document.get("metadata"))
        version = metadata.get("resourceVersion")
        name = self.secret_name(entry.number)
        labels = {
            "app.kubernetes.io/managed-by": "tailscale-cni",
            "tailscale.com/namespace": self.namespace,
            "tailscale.com/name": self.name,
        }
        document = {
            **entry.document,
            "apiVersion": "v1",
            "kind": "Secret",
            "type": KIND,
            "metadata": {**metadata, "name": name, "labels": {**as_dict(metadata.get("labels")), **labels}},
            "data": {
                RECORD: _packed(entry),
                **{k: base64.b64encode(v).decode() for k, v in entry.files.items()},
            },
        }
        method, path = ("PUT", f"{SECRETS}/{name}") if version else ("POST", SECRETS)
        written = self.api.change(method, path, document)
        return entry._replace(document=written)

    def delete(self, entry: Entry) -> None:
        """Delete an identity from the cluster, so that no pod uses it again. Raises client.Conflict."""
        metadata = as_dict(entry.document.get("metadata"))
        preconditions = {key: metadata.get(key) for key in ("uid", "resourceVersion")}
        path = f"{SECRETS}/{self.secret_name(entry.number)}"
        self.api.change(
            "DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        )

    def _parsed(self, items: list[Any]) -> Iterator[tuple[int, Entry | None]]:
        """The entries of those Secrets in a list whose names are ours, with their numbers."""
        prefix = self.secret_name(0)[:-1]
        for item in map(as_dict, items):
            name = as_text(as_dict(item.get("metadata")).get("name"))
            digits = name.removeprefix(prefix)
            if name.startswith(prefix) and digits.isascii() and digits.isdecimal() and len(digits) < 6:
                number = int(digits)
                if name == self.secret_name(number):  # not for "00"
                    yield number, _entry(number, item)


def held_as(entries: Mapping[int, Entry | None], holder: Holder) -> Entry | None:
    """The entry with this holder, if there is one."""
    held = (entry for entry in entries.values() if entry and entry.holder)
    return next((entry for entry in held if entry.holder and entry.holder.is_same(holder)), None)


def _packed(entry: Entry) -> str:
    """The record in base64, with the fields that a newer version on another host has written."""
    holder, released_by = (one._asdict() if one else None for one in (entry.holder, entry.released_by))
    known = {"version": 1, **entry.record._asdict(), "holder": holder, "releasedBy": released_by}
    document = {**_record_of(as_dict(entry.document.get("data"))), **known}
    return base64.b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()


def _entry(number: int, secret: Mapping[str, Any]) -> Entry | None:
    """The entry of a Secret; None if the Secret has another format or invalid content."""
    data = as_dict(secret.get("data"))
    try:
        if secret.get("type") not in (None, KIND):
            return None
        files = {name: _decoded(data[name]) for name in node_files.NAMES if name in data}
        if not all(node_files.is_sound(name, content) for name, content in files.items()):
            return None
        document = _record_of(data)
        if document.get("version") != 1:
            return None
        holder, released_by = _holder(document["holder"]), _holder(document["releasedBy"])
        known = record(document)
        if known.node_key != node_keys.in_state(files.get(node_files.STATE, b"")):
            known = known._replace(node_id="", node_key="")  # so that this device is never tagged or deleted
        return Entry(number, holder, released_by, known, files, secret)
    except (ValueError, KeyError, RecursionError):
        return None


def _record_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The record in a Secret's data; empty if there is none or it cannot be read."""
    try:
        return as_dict(json.loads(_decoded(data.get(RECORD), MAX_RECORD)))
    except (ValueError, RecursionError):
        return {}


def _decoded(value: object, largest: int = node_files.MAX_FILE) -> bytes:
    """Decode base64. Raises ValueError, also for a text of more than twice ``largest``."""
    if not isinstance(value, str) or len(value) > 2 * largest:
        raise ValueError("not base64, or too long")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as e:
        raise ValueError(str(e)) from None


def _holder(value: object) -> Holder | None:
    """Parse a holder. Raises ValueError for an invalid one, which must not look like no holder."""
    if value is None:
        return None
    words = [as_word(as_dict(value).get(field)) for field in Holder._fields]
    if not (all(words) and client.is_name(words[0])):
        raise ValueError("holder")
    return Holder(*words)


def record(document: Mapping[str, Any]) -> Record:
    """The Record of a JSON document. Invalid fields get their defaults."""
    port = document.get("port")
    return Record(
        as_text(document.get("control_url")),
        tuple(tag for tag in as_texts(document.get("tags")) if is_tag(tag)),
        as_word(document.get("node_id")),
        as_word(document.get("node_key")),
        port if isinstance(port, int) and 1024 <= port <= 65535 else 0,
    )
