"""A pod's network namespace, as ADD is given it and as it was recorded; and what the network code must know of the pod."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from typing import TYPE_CHECKING

from .. import errors, linux
from ..config import UID_COUNT
from ..tailnet import overlapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..net.model import PodNetwork, Tailnet
    from ..state.attachments import Attachment
    from ..worker.localapi import Node


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
        yield netns if is_recorded(attachment, netns) else None
    finally:
        os.close(netns)


def is_recorded(attachment: Attachment, netns: int) -> bool:
    """Whether a descriptor is of the namespace that ADD configured."""
    if attachment.boot_id != linux.boot_id():
        return False
    with linux.in_netns(netns):
        cookie = linux.netns_cookie()
        if cookie is not None:
            return cookie == attachment.netns_cookie
        return os.fstat(netns).st_ino == attachment.netns_inode and linux.has_interface(attachment.interface)


def pod_network(attachment: Attachment) -> PodNetwork:
    """An attachment as the network code sees it."""
    from ..net import model

    clusters = tuple(ipaddress.ip_network(network) for network in attachment.cluster_cidrs)
    return model.PodNetwork(
        interface=attachment.interface,
        mtu=attachment.mtu,
        pod_addresses=tuple(ipaddress.ip_address(address) for address in attachment.pod_addresses),
        host_sources=(
            *(ipaddress.ip_network(address) for address in attachment.host_addresses),
            *overlapping(clusters),
        ),
        cluster_cidrs=clusters,
        anti_spoofing=attachment.anti_spoofing,
        worker_uid_range=worker_uids(attachment) if attachment.underlay == "pod" else None,
        tun_owner=attachment.uid,
    )


def worker_uids(attachment: Attachment) -> tuple[int, int]:
    """The first and the last user ID that a worker of this host may have."""
    return attachment.uid_base, attachment.uid_base + UID_COUNT - 1


def tailnet(node: Node) -> Tailnet:
    """A node as the network code sees it."""
    from ..net import model

    return model.Tailnet(addresses=node.addresses, peers=node.peers)
