"""What becomes of an identity whose pod gives it up: a table, without a look at anything."""

from __future__ import annotations

from enum import Enum


class Disposition(Enum):
    """The three ends of an identity on this host."""

    KEEP = "keep"
    """Its keys stay with the hostname's number, for the next pod."""
    RELEASE = "release"
    """The cluster gets the keys back, so that a pod on any host can have them."""
    DELETE = "delete"
    """Its device is deleted from the tailnet, and its keys with it."""


class Successor(Enum):
    """The pod that gets the number."""

    NONE = "none"
    EPHEMERAL = "ephemeral"
    """It has the number for the hostname's sake, and keys of its own."""
    LASTING = "lasting"
    """It becomes the node that the keys are of."""


def disposition(*, in_cluster: bool, deletable: bool, successor: Successor) -> Disposition:
    """What becomes of the identity of a number that a pod was for a while and does not need, because it has a better one.

    ``in_cluster``: the cluster keeps the identity, too. ``deletable``: a control plane with an API can be told to delete the device.
    Without one, the device would stay in the tailnet for ever, so the next pod should be that node.
    """
    if successor is Successor.LASTING:
        return Disposition.KEEP
    if in_cluster:
        return Disposition.DELETE if deletable else Disposition.RELEASE
    return Disposition.DELETE if deletable and successor is Successor.NONE else Disposition.KEEP
