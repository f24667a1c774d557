"""``stateDir/enroll.json``: what the fast path may know of the configuration without reading it (packaging/front/)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .settings import Config


def fingerprint(path: str) -> list[int] | None:
    """What changes when a file changes, cheap to read: [mtime in ns, size, inode].

    None if it is not there.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def fastpath_note(config: Config, *watched: str) -> dict[str, Any]:
    """``stateDir/enroll.json``: what the fast path must know, for as long as the watched files are what they are.

    ``annotated`` is its word for "a pod that says nothing is no node", ``asked`` for "unless the API has said so of its
    namespace, which is not one of ``except``" (``state.namespaces``). Where the configuration enrols a namespace, it must go and ask.
    """
    watch = {path: fingerprint(path) for path in watched} | {config.config_file: config.seen}
    said = (layer.get("tailscale.com/enabled", "false") for layer in config.namespaces.values())
    if config.enroll == "annotated" and any(word != "false" for word in said):
        return {"version": 1, "enroll": "namespaces", "watch": watch}
    if config.enroll == "annotated" and config.kubeconfig:
        return {"version": 1, "enroll": "asked", "except": list(config.exclude_namespaces), "watch": watch}
    return {"version": 1, "enroll": config.enroll, "watch": watch}
