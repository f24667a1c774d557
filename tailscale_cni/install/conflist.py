"""The runtime's network lists: find the primary network's list, and derive ours from it.

The primary's file is never changed, because k3s, Calico and Cilium write theirs again at every start. Our list sorts first. It has
the primary's network name and plugins, and our entry at the end. The rules for lists and their order are libcni's and go-cni's:
github.com/containernetworking/cni/libcni/conf.go.
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
"""Plugins whose lists are derived from another list. Deriving ours from one of those would make a circle."""
OLDEST = (0, 3, 0)
"""The first version of the CNI specification that has chained plugins."""
MAX_SIZE = 4 * 2**20
"""Bytes of a file that are read."""


class _Unusable(Exception):
    """A file is not a usable network list, and why."""


class Primary(NamedTuple):
    """The primary network's list: the path of its file, and the parsed document."""

    path: str
    document: dict[str, Any]


def find_primary(directory: str) -> Primary:
    """The first list in the runtime's order that is not derived from another list.

    Raises NoPrimary if there is none, or if a list before it is not usable: a list that sorts behind an unusable one was never the
    cluster's network.
    """
    for name in _lists(directory):
        path = f"{directory}/{name}"
        try:
            document = _read(path)
        except _Unusable as e:
            raise errors.NoPrimary(directory=directory, reason=f"{name}: {e}") from None
        if DERIVERS.isdisjoint(str(plugin.get("type")) for plugin in document["plugins"]):
            return Primary(path, document)
    raise errors.NoPrimary(directory=directory, reason="it has no network list")


def derive(primary: Primary, entry: dict[str, Any]) -> bytes:
    """The content of our list: the primary's, with our ``entry`` at the end."""
    document = dict(primary.document)
    document["plugins"] = [*document["plugins"], entry]
    return json.dumps(document, indent=2).encode() + b"\n"


def entry(**keys: Any) -> dict[str, Any]:
    """Our entry of a list, with these configuration keys."""
    return {
        "type": TYPE,
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        **keys,
    }


def remove(directory: str) -> bool:
    """Remove our list, so that the runtime uses the primary's. Returns whether there was one."""
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
    """The list in a file. A ``.conf`` or ``.json`` file of a single plugin becomes a list of one. Raises _Unusable."""
    try:
        with open(path, "rb") as f:
            document: Any = json.loads(f.read(MAX_SIZE))
    except OSError as e:
        raise _Unusable(e.strerror) from None
    except (ValueError, RecursionError) as e:
        raise _Unusable(f"it is not JSON: {errors.show(str(e))}") from None
    if not isinstance(document, dict):
        raise _Unusable("it is not an object")
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
        raise _Unusable("it has no plugins")
    if not isinstance(document.get("name"), str):
        raise _Unusable("it has no name")
    if _version(document.get("cniVersion")) < OLDEST:
        raise _Unusable(f"its cniVersion is {errors.show(document.get('cniVersion'))}; the minimum is 0.3.0")
    return dict(document)


def _version(value: object) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in str(value).split("."))
    except ValueError:
        return (0,)
