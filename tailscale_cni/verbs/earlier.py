"""Pods that were added before our list was there: they are no nodes, whatever they ask for, until they are started again.

libcni notes each ADD with the pod's annotations (containernetworking/cni, libcni/api.go, cachedInfo), whoever the plugins are, and
forgets it at DEL. So a host knows them by itself. The notes are root's; what is in annotations is a pod author's.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from .. import errors, policy
from ..json_fields import as_dict, as_list, as_text
from ..state import files
from ..tailnet import is_label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config import Config

NOTES = "/var/lib/cni/results"
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"


def waiting(host: Config, root: str = "") -> list[str]:
    """The pods that run, are no nodes and should be ones, as ``namespace/pod``.

    What a namespace wants is known from the host's configuration alone: nobody is asked.
    """
    return sorted({f"{namespace}/{pod}" for namespace, pod in _waiting(host, root)})


def _waiting(host: Config, root: str) -> Iterator[tuple[str, str]]:
    for note in _notes(f"{root}{NOTES}"):
        words = _words(note.get("cniArgs"))
        namespace, pod = words.get("K8S_POD_NAMESPACE", ""), words.get("K8S_POD_NAME", "")
        container = as_text(note.get("containerId"))
        if not (is_label(namespace) and pod and container.isalnum() and _runs(note, root)):
            continue
        enrolled = os.path.exists(f"{root}{host.state_dir}/attachments/{container}")
        if not enrolled and _wants(
            host, namespace, pod, as_dict(note.get("capabilityArgs")).get(ANNOTATIONS)
        ):
            yield namespace, pod


def _notes(directory: str) -> Iterator[dict[str, Any]]:
    """What libcni has noted; a file that cannot be read is none of our business."""
    for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        with contextlib.suppress(errors.Error, OSError):
            yield as_dict(files.read_json(f"{directory}/{name}"))


def _words(pairs: object) -> dict[str, str]:
    """CNI_ARGS, which are pairs there."""
    given = [pair for pair in as_list(pairs) if isinstance(pair, list) and len(pair) == 2]
    return {as_text(key): as_text(value) for key, value in given}


def _runs(note: dict[str, Any], root: str) -> bool:
    """Whether one of the namespaces of its interfaces is there: a pod that a reboot ended has a note, too."""
    interfaces = map(as_dict, as_list(as_dict(note.get("result")).get("interfaces")))
    paths = (as_text(interface.get("sandbox")).replace("/var/run/", "/run/", 1) for interface in interfaces)
    return any(path.startswith("/") and os.path.exists(root + path) for path in paths)


def _wants(host: Config, namespace: str, pod: str, annotations: object) -> bool:
    """Whether it would be a node, or would be told why not."""
    given = {key: value for key, value in as_dict(annotations).items() if isinstance(value, str)}
    try:
        return policy.decide(host, namespace=namespace, pod=pod, annotations=given) is not None
    except errors.Error:
        return True
