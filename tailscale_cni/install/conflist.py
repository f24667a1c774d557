"""The runtime's network lists: find the primary's, derive ours from it, keep it in step.

The primary's file stays untouched: k3s, Calico and Cilium write theirs anew at every start. Ours sorts
first, is the primary's list plus our entry under the same network name, and is rendered again when the
primary's changes. libcni's rules of what a list is, and which one is first, are in
github.com/containernetworking/cni/libcni/conf.go and go-cni.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from .. import errors

NAME = "00-tailscale-cni.conflist"
TYPE = "tailscale-cni"
SUFFIXES = (".conf", ".conflist", ".json")
DERIVERS = frozenset((TYPE, "multus", "multus-shim", "istio-cni"))
"""Plugins whose lists are made from another list: following one of those would chase its own tail."""
OLDEST = (0, 3, 0)
LARGEST = 4 * 2**20


class _Unfit(Exception):
    """Why a file is no list that ours could follow."""


class Primary(NamedTuple):
    """The list that ours follows."""

    path: str
    document: dict[str, Any]


def find_primary(directory: str) -> Primary:
    """The first list in the runtime's order that is nobody's copy of another.

    Raises NoPrimary if there is none, and for a list that cannot be read: whatever sorts behind it was
    never the cluster's network.
    """
    for name in _lists(directory):
        path = f"{directory}/{name}"
        try:
            document = _read(path)
        except _Unfit as e:
            raise errors.NoPrimary(directory=directory, reason=f"{name}: {e}") from None
        if DERIVERS.isdisjoint(str(plugin.get("type")) for plugin in document["plugins"]):
            return Primary(path, document)
    raise errors.NoPrimary(directory=directory, reason="it has no network list")


def derive(primary: Primary, entry: dict[str, Any]) -> bytes:
    """Our list: the primary's, and our entry at its end."""
    document = dict(primary.document)
    document["plugins"] = [*document["plugins"], entry]
    return json.dumps(document, indent=2).encode() + b"\n"


def entry(**keys: Any) -> dict[str, Any]:
    """Our entry of a list, with the configuration keys that are given."""
    return {
        "type": TYPE,
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        **keys,
    }


def remove(directory: str) -> bool:
    """Take our list away: the runtime falls back to the primary's. Whether there was one."""
    try:
        os.unlink(f"{directory}/{NAME}")
    except FileNotFoundError:
        return False
    return True


def _lists(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(name for name in names if name.endswith(SUFFIXES) and name != NAME)


def _read(path: str) -> dict[str, Any]:
    """A list from a file, or from a single plugin's file.

    Raises _Unfit.
    """
    try:
        with open(path, "rb") as f:
            document: Any = json.loads(f.read(LARGEST))
    except OSError as e:
        raise _Unfit(e.strerror) from None
    except (ValueError, RecursionError) as e:
        raise _Unfit(f"it is not JSON: {errors.show(str(e))}") from None
    if not isinstance(document, dict):
        raise _Unfit("it is not an object")
    if "plugins" not in document and not path.endswith(".conflist"):
        document = {key: document[key] for key in ("cniVersion", "name") if key in document} | {
            "plugins": [document]
        }
    plugins = document.get("plugins")
    if (
        not isinstance(plugins, list)
        or not plugins
        or not all(isinstance(plugin, dict) for plugin in plugins)
    ):
        raise _Unfit("it has no plugins")
    if not isinstance(document.get("name"), str):
        raise _Unfit("it has no name")
    if _version(document.get("cniVersion")) < OLDEST:
        raise _Unfit(f"its cniVersion is {errors.show(document.get('cniVersion'))}; the minimum is 0.3.0")
    return dict(document)


def _version(value: object) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in str(value).split("."))
    except ValueError:
        return (0,)
