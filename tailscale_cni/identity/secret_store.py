"""The vault: identities in the cluster's Secrets, so that a node can move to another host with its pod.

A Secret per namespace, name and number; in it the node's keys, what they are for, and which host holds them. Whoever changes one
says which version it has read (``resourceVersion``), so of two hosts that want one, one gets it. It is taken from another host only
when that cannot run it any more: it has given it back, its Node object is gone (by UID: a Node of the same name that came later is
another one), or somebody vouches for it by the taint ``node.kubernetes.io/out-of-service``. So no two hosts run one identity.

What is in a Secret is hostile until parsed: whoever may write there may write anything. This module asks the API, and is slow to import.
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
from ..state import node_keys, vault_files
from ..state.hostnames import MOST
from ..tailnet import is_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping


NAMESPACE = "tailscale-cni"
"""Of its own: who may read Secrets there must not thereby read others."""

SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
KIND = "tailscale.com/identity"
"""The type of the Secrets. Kubernetes does not let it be changed."""

RECORD = "record.json"
LARGEST_RECORD = 16 * 2**10

TRIES = 5
"""How often somebody else may come first."""


class Holder(NamedTuple):
    """Who has an identity: the host's Node, by name and UID; the host by its own word and boot; and as which identity of its disk."""

    node: str
    node_uid: str
    host: str
    boot: str
    key: str

    def is_same(self, other: Holder) -> bool:
        """Whether it is the same identity of the same host, whatever has become of its Node and its boot."""
        return (self.host, self.key) == (other.host, other.key)


class Record(NamedTuple):
    """What keys are for, and whose they are."""

    control_url: str = ""
    tags: tuple[str, ...] = ()
    node_id: str = ""
    node_key: str = ""
    port: int = 0
    """The UDP port that it had: it gets it again where it is free."""


class Entry(NamedTuple):
    """An identity in the vault."""

    number: int
    holder: Holder | None
    released_by: Holder | None
    record: Record
    files: Mapping[str, bytes]
    document: Mapping[str, Any]
    """The Secret as it was read; what is not ours in it stays."""

    def __repr__(self) -> str:
        """Never the keys."""
        return f"Entry({self.number}, {self.holder})"


class Taken(NamedTuple):
    """An identity that is this host's now, and what a person should know of those of lower numbers."""

    entry: Entry
    refusals: tuple[str, ...] = ()


class Held(Exception):
    """An identity cannot be taken; why, where a person should know."""


class Vault:
    """The identities of one name of a namespace. Every call raises KubernetesFailed, KubernetesForbids."""

    def __init__(self, api: client.Api, namespace: str, name: str) -> None:
        """``namespace`` and ``name`` are DNS labels."""
        self.api = api
        self.namespace, self.name = namespace, name

    def secret_name(self, number: int) -> str:
        """A DNS subdomain of at most 133 characters."""
        return f"{self.namespace}.{self.name}.{number}"

    def entries(self) -> dict[int, Entry | None]:
        """By number; None for one that cannot be read: it is nobody's to take."""
        selector = f"tailscale.com/namespace%3D{self.namespace}%2Ctailscale.com/name%3D{self.name}"
        found = self.api.get(f"{SECRETS}?labelSelector={selector}")
        return dict(self._parsed(as_list(as_dict(found).get("items"))))

    def entry(self, number: int) -> Entry | None:
        """One of them; None if there is none. Raises UnreadableState for one that cannot be read."""
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
        """A Secret, as kubectl has it."""
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
        """Hold the one of ``number``, if it is given and free; else the lowest that is free and not among ``taken``.

        Where one was given, the others are other pods' to come back to: another one is then one that is not there yet. One that is not
        there is made. With ``below``, only one that is there already and has a lower number will do. One that somebody else is
        quicker to hold is not free. ``has`` says of a key whether the holder's host knows of it. None if there is none.
        """
        entries, refusals = self.entries(), list[str]()
        wanted = range(MOST if below is None else below)
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
        """Raises Held, without a word if that is as it should be."""
        held = entry.holder
        if held is None:
            return
        if (held.host, held.node) == (ours.host, ours.node):  # of a copied disk, only one has this Node
            if has(held.key):
                raise Held
            return  # a call of ours that was given up, and done all the same
        if (held.node, held.node_uid) == (ours.node, ours.node_uid):  # it has lost its disk
            if held.boot != ours.boot:
                return  # nothing of it outlives a boot
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
        """Whether somebody has a worse number, and a host that is well: as on one host, the worst off moves, and nobody else has to."""
        worse = {one.holder for its, one in entries.items() if its > number and one and one.holder}
        nodes = ((self.api.node(holder.node), holder) for holder in worse)
        return any(node and node.ready and node.uid == holder.node_uid for node, holder in nodes)

    def save(self, entry: Entry) -> Entry:
        """Write one, new or as it was read; as it is then. Raises client.Conflict."""
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
        """Nobody is to be this node any more. Raises client.Conflict."""
        metadata = as_dict(entry.document.get("metadata"))
        preconditions = {key: metadata.get(key) for key in ("uid", "resourceVersion")}
        path = f"{SECRETS}/{self.secret_name(entry.number)}"
        self.api.change(
            "DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        )

    def _parsed(self, items: list[Any]) -> Iterator[tuple[int, Entry | None]]:
        """Of a list, what is ours by its name."""
        prefix = self.secret_name(0)[:-1]
        for item in map(as_dict, items):
            name = as_text(as_dict(item.get("metadata")).get("name"))
            digits = name.removeprefix(prefix)
            if name.startswith(prefix) and digits.isascii() and digits.isdecimal() and len(digits) < 6:
                number = int(digits)
                if name == self.secret_name(number):  # there may be a 00, too
                    yield number, _entry(number, item)


def held_as(entries: Mapping[int, Entry | None], holder: Holder) -> Entry | None:
    """The one that is held so, if there is any."""
    held = (entry for entry in entries.values() if entry and entry.holder)
    return next((entry for entry in held if entry.holder and entry.holder.is_same(holder)), None)


def _packed(entry: Entry) -> str:
    """The record, with the fields that another host's newer version had written in it."""
    holder, released_by = (one._asdict() if one else None for one in (entry.holder, entry.released_by))
    known = {"version": 1, **entry.record._asdict(), "holder": holder, "releasedBy": released_by}
    document = {**_record_of(as_dict(entry.document.get("data"))), **known}
    return base64.b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()


def _entry(number: int, secret: Mapping[str, Any]) -> Entry | None:
    """None for what this version has not written, or another has broken."""
    data = as_dict(secret.get("data"))
    try:
        if secret.get("type") not in (None, KIND):
            return None
        files = {name: _decoded(data[name]) for name in vault_files.NAMES if name in data}
        if not all(vault_files.is_sound(name, content) for name, content in files.items()):
            return None
        document = _record_of(data)
        if document.get("version") != 1:
            return None
        holder, released_by = _holder(document["holder"]), _holder(document["releasedBy"])
        known = record(document)
        if known.node_key != node_keys.in_state(files.get(vault_files.STATE, b"")):
            known = known._replace(node_id="", node_key="")  # nobody is to tag or delete that
        return Entry(number, holder, released_by, known, files, secret)
    except (ValueError, KeyError, RecursionError):
        return None


def _record_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a Secret has as its record; nothing if it has none that can be read."""
    try:
        return as_dict(json.loads(_decoded(data.get(RECORD), LARGEST_RECORD)))
    except (ValueError, RecursionError):
        return {}


def _decoded(value: object, largest: int = vault_files.LARGEST) -> bytes:
    """Raises ValueError."""
    if not isinstance(value, str) or len(value) > 2 * largest:
        raise ValueError("not base64, or too long")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as e:
        raise ValueError(str(e)) from None


def _holder(value: object) -> Holder | None:
    """Raises ValueError for somebody who cannot be named: that must not look like nobody."""
    if value is None:
        return None
    words = [as_word(as_dict(value).get(field)) for field in Holder._fields]
    if not (all(words) and client.is_name(words[0])):
        raise ValueError("holder")
    return Holder(*words)


def record(document: Mapping[str, Any]) -> Record:
    """What a document says of it, of the kind that it must be."""
    port = document.get("port")
    return Record(
        as_text(document.get("control_url")),
        tuple(tag for tag in as_texts(document.get("tags")) if is_tag(tag)),
        as_word(document.get("node_id")),
        as_word(document.get("node_key")),
        port if isinstance(port, int) and 1024 <= port <= 65535 else 0,
    )
