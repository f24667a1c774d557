"""The Go programs of this build, unpacked where every user can execute them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import artefact

if TYPE_CHECKING:
    from .artefact import Artefact


def worker_binary() -> str:
    """The path of the worker, which every user can execute. Raises InputOutput if it is not built, or cannot be unpacked."""
    return _binary("worker")


def supervisor_binary() -> str:
    """The path of the supervisor. Raises InputOutput if it is not built, or cannot be unpacked."""
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
    """Unpack the artefact, if the bootstrap could not, and return its site-packages. Raises InputOutput."""
    from .. import errors
    from . import cache

    try:
        return str(cache.unpack(running.file, running.build, running.state_dir))
    except OSError as e:
        reason = e.strerror or str(e)
        raise errors.InputOutput(
            what="the Go programs cannot be unpacked", reason=reason, path=running.state_dir
        ) from None
