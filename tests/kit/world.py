"""The actors that a suite has once: the wire, the control plane on it, and a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .controlplane import ControlPlane
from .wire import Wire


@dataclass(frozen=True)
class World:
    """The environment that hosts and peers of a suite share."""

    wire: Wire
    control: ControlPlane
    root: Path
