"""An identity that this host holds for a pod while ADD records it."""

from __future__ import annotations

from typing import NamedTuple


class Reservation(NamedTuple):
    """The identity ``key`` of a hostname's ``number``, from the cluster of ``kubeconfig``.

    ``port`` is the last UDP port of the identity's node; 0 if that is unknown.
    """

    number: int
    key: str
    kubeconfig: str
    port: int
