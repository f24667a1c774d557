"""The Go programs of this build, unpacked where every user can execute them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import artefact

if TYPE_CHECKING:
    from .artefact import Artefact


def worker_binary() -> str:
    """The path of the worker, executable for every user. Raises InputOutput if it cannot be unpacked or is not built."""
    return _binary("worker")


def supervisor_binary() -> str:
    """The path of the supervisor. Raises InputOutput likewise."""
    return _binary("supervisor")


def _binary(name: str) -> str:
    site = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    running = artefact.running()
    if running and running.site is None:
        site = _unpacked(running)
    path = f"{site}/tailscale_cni/bin/{name}"
    if not os.path.isfile(path):
        raise artefact.not_built(name, path)
    return path


def _unpacked(running: Artefact) -> str:
    """Unpack what could not be unpacked when this process started, or did not need to be."""
    from .. import errors
    from . import cache

    try:
        return str(cache.unpack(running.file, running.build, running.state_dir))
    except OSError as e:
        reason = e.strerror or str(e)
        raise errors.InputOutput(
            what="the Go programs cannot be unpacked", reason=reason, path=running.state_dir
        ) from None
