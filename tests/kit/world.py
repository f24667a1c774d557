"""What a suite has one of: the wire, the control plane on it, and a place for files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .controlplane import ControlPlane
from .wire import Wire


@dataclass(frozen=True)
class World:
    """Hosts and peers are plugged into it."""

    wire: Wire
    control: ControlPlane
    root: Path
