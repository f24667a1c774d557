"""The note ``stateDir/enroll.json``, from which the fast path (packaging/front/) learns whether it may answer a call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .settings import Config


def fingerprint(path: str) -> list[int] | None:
    """[mtime in nanoseconds, size, inode] of a file, which change when the file changes. None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def fastpath_note(config: Config, *watched: str) -> dict[str, Any]:
    """The content of the note. It is valid while the fingerprints of the watched files and of ``configFile`` stay the same.

    ``enroll`` says what happens to a pod without annotations. ``annotated``: it is not enrolled. ``asked``: it is not enrolled if its
    namespace is in ``except``, or if the cluster's API has recently said so (``state.namespaces``). Any other value makes the fast path
    leave the call to the real path.
    """
    watch = {path: fingerprint(path) for path in watched} | {config.config_file: config.seen}
    values = (layer.get("tailscale.com/enabled", "false") for layer in config.namespaces.values())
    if config.enroll == "annotated" and any(value != "false" for value in values):
        return {"version": 1, "enroll": "namespaces", "watch": watch}
    if config.enroll == "annotated" and config.kubeconfig:
        return {"version": 1, "enroll": "asked", "except": list(config.exclude_namespaces), "watch": watch}
    return {"version": 1, "enroll": config.enroll, "watch": watch}
