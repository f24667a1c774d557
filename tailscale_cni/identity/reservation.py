"""An identity that this host holds for a pod while ADD records it."""

from __future__ import annotations

from typing import NamedTuple


class Reservation(NamedTuple):
    """The identity ``key`` of a hostname's ``number``, from the cluster that ``kubeconfig`` gives access to.

    ``port`` is the UDP port that its node had last; 0 if that is not known.
    """

    number: int
    key: str
    kubeconfig: str
    port: int
