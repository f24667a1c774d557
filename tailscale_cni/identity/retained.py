"""Listing and forgetting the retained identities of a host.

A retained identity is either idle or in use by a running pod. An identity in use cannot be forgotten.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from .. import errors
from ..control import select
from ..policy import numbered
from ..state import hostnames, identities
from ..state.attachments import Attachments
from ..state.identities import Identity
from ..state.outbox import Deletion, Outbox
from ..state.releases import Release, Releases

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..config import Config
    from ..state.attachments import Attachment


RELEASE_TIMEOUT = 10.0
"""Seconds to wait for another process that is just releasing the identity to the cluster."""


class Retained(NamedTuple):
    """An identity that is retained for a number of a name, and the pod that uses the identity now, if there is one."""

    name: hostnames.Hostname
    number: int
    identity: Identity
    holder: Attachment | None
    last_used: float
    """When the identity's last pod ended or its record was written, in seconds since the epoch."""

    @property
    def node(self) -> str:
        """Namespace and hostname, for example ``media/plex-1``."""
        return f"{self.name.namespace}/{numbered(self.name.name, self.number)}"


def every(state_dir: str) -> Iterator[Retained]:
    """All retained identities of a host. An identity whose record cannot be read has only its key."""
    store = Attachments(state_dir)
    attachments = list(store.all())
    for name in hostnames.every(store):
        for number, key in sorted(name.all_retained().items()):
            yield _kept(name, number, key, attachments)


def _kept(name: hostnames.Hostname, number: int, key: str, attachments: Iterable[Attachment]) -> Retained:
    state_dir = name.store.state_dir
    try:
        identity = Identity.read(state_dir, key)
    except errors.UnreadableState:
        identity = Identity(key)
    holder = next((one for one in attachments if key in (one.identity, *one.former)), None)
    return Retained(name, number, identity, holder, identities.last_used(state_dir, key))


def find(state_dir: str, wanted: str) -> Retained:
    """The retained identity with this ``node`` or key. Raises NoSuchIdentity for none, and for several."""
    found = [kept for kept in every(state_dir) if wanted in (kept.node, kept.identity.key)]
    if len(found) == 1:
        return found[0]
    keys_of = " or ".join(kept.identity.key for kept in found)
    advice = (
        f"Several have this name. Pass a key: {keys_of}."
        if found
        else "To list them, run 'tailscale-cni identities'."
    )
    raise errors.NoSuchIdentity(identity=errors.show(wanted), advice=advice)


def forget(state_dir: str, kept: Retained, host: Config) -> bool:
    """Remove a retained identity and queue the deletion of its node. Returns whether an API can delete the node. Raises IdentityInUse.

    A pod that is added at the same time either took the number before this, or finds no retained identity.
    """
    with _not_given_back(state_dir, kept.identity) as ours, kept.name.locked():
        holder = kept.name.holders().get(kept.number)
        now = _kept(kept.name, kept.number, kept.name.retained(kept.number), Attachments(state_dir).all())
        user = now.holder or (holder if holder and not holder.ephemeral else None)
        if user:
            raise errors.IdentityInUse(identity=kept.node, pod=user.display_name)
        if not ours or now.identity.key != kept.identity.key:
            raise errors.NoSuchIdentity(
                identity=kept.node, advice="It was forgotten or released a moment ago."
            )
        deletion = _deletion(kept, host)
        if kept.identity.kubeconfig:  # another host may hold it now, so the cluster decides
            key, kubeconfig, name = kept.identity.key, kept.identity.kubeconfig, kept.name
            Releases(state_dir).post(
                Release(key, kubeconfig, name.namespace, name.name, delete=True, deletion=deletion)
            )
        elif deletion:
            Outbox(state_dir).add(deletion)
        identities.forget(state_dir, kept.identity)
        kept.name.stop_retaining(kept.number)
    return deletion is not None


@contextlib.contextmanager
def _not_given_back(state_dir: str, identity: Identity) -> Iterator[bool]:
    """Keep other processes from releasing an identity while the body runs. Yields False if a release is in progress."""
    hold = Releases(state_dir).hold(identity.key, RELEASE_TIMEOUT) if identity.kubeconfig else None
    try:
        yield hold is not None or not identity.kubeconfig
    finally:
        if hold is not None:
            os.close(hold)


def _deletion(kept: Retained, host: Config) -> Deletion | None:
    """The deletion of an identity's node; None unless the node is in the host's control plane and this has an API."""
    identity = kept.identity
    is_known = identity.node_id and identity.node_key and identity.control_url == host.control_url
    if select.is_static(host) or not is_known:
        return None
    return Deletion(
        identity.node_id, identity.node_key, who=f"identity {kept.node}", **select.configured(host).fields()
    )
