"""An identity that this host holds for a pod that is being added."""

from __future__ import annotations

from typing import NamedTuple


class Reservation(NamedTuple):
    """An identity that this host holds, and nobody's on it yet; ``hold`` keeps others away from its release."""

    number: int
    key: str
    kubeconfig: str
    port: int
    hold: int
