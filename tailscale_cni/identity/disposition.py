"""What to do with an identity that a pod gives up: a pure decision table."""

from __future__ import annotations

from enum import Enum


class Disposition(Enum):
    """What to do with an identity on this host."""

    KEEP = "keep"
    """Retain the keys for the hostname's number and its next pod."""
    RELEASE = "release"
    """Release the keys to the cluster, so that a pod on any host can use them."""
    DELETE = "delete"
    """Delete the device from the tailnet, and the keys."""


class Successor(Enum):
    """The pod that gets the number."""

    NONE = "none"
    EPHEMERAL = "ephemeral"
    """The pod takes the number for its hostname, and has its own keys."""
    LASTING = "lasting"
    """The pod takes the number with its retained keys, and runs as that node."""


def disposition(*, in_cluster: bool, deletable: bool, successor: Successor) -> Disposition:
    """What to do with the identity of a number that a pod had for a while and gives up, because it has a better number.

    ``in_cluster``: the cluster also stores the identity. ``deletable``: a control plane with an API can delete the device. Without an
    API, the device would stay in the tailnet for ever, so the identity is kept or released for the next pod.
    """
    if successor is Successor.LASTING:
        return Disposition.KEEP
    if in_cluster:
        return Disposition.DELETE if deletable else Disposition.RELEASE
    return Disposition.DELETE if deletable and successor is Successor.NONE else Disposition.KEEP
