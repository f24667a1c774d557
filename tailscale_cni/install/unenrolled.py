"""Running pods that were added before the plugin was installed. They become nodes only when they are restarted.

libcni caches each ADD with the pod's annotations until DEL, for every plugin (containernetworking/cni, libcni/api.go, cachedInfo).
The cache is therefore enough to find these pods. Only root writes the cache files, but the annotations in them come from pod authors.
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


CACHE_DIR = "/var/lib/cni/results"
"""libcni's cache: one JSON file per attachment."""

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"


def waiting(config: Config, root: str = "") -> list[str]:
    """The running pods that are not nodes but would become nodes when restarted, as sorted ``namespace/pod``.

    ``root`` is the host's root directory. Annotations of namespaces in the cluster are not considered, because the API is not asked.
    """
    return sorted({f"{namespace}/{pod}" for namespace, pod in _waiting(config, root)})


def _waiting(config: Config, root: str) -> Iterator[tuple[str, str]]:
    for cached in _read_cache(f"{root}{CACHE_DIR}"):
        args = _args(cached.get("cniArgs"))
        namespace, pod = args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", "")
        container = as_text(cached.get("containerId"))
        if not (is_label(namespace) and pod and container.isalnum() and _is_running(cached, root)):
            continue
        enrolled = os.path.exists(f"{root}{config.state_dir}/attachments/{container}")
        if not enrolled and _should_enroll(
            config, namespace, pod, as_dict(cached.get("capabilityArgs")).get(ANNOTATIONS)
        ):
            yield namespace, pod


def _read_cache(directory: str) -> Iterator[dict[str, Any]]:
    """The documents in libcni's cache. Files that cannot be read are skipped."""
    for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        with contextlib.suppress(errors.Error, OSError):
            yield as_dict(files.read_json(f"{directory}/{name}"))


def _args(pairs: object) -> dict[str, str]:
    """CNI_ARGS, which the cache keeps as a list of pairs."""
    given = [pair for pair in as_list(pairs) if isinstance(pair, list) and len(pair) == 2]
    return {as_text(key): as_text(value) for key, value in given}


def _is_running(cached: dict[str, Any], root: str) -> bool:
    """Whether the pod's network namespace exists. Cache files also stay for pods that a reboot ended."""
    interfaces = map(as_dict, as_list(as_dict(cached.get("result")).get("interfaces")))
    paths = (as_text(interface.get("sandbox")).replace("/var/run/", "/run/", 1) for interface in interfaces)
    return any(path.startswith("/") and os.path.exists(root + path) for path in paths)


def _should_enroll(config: Config, namespace: str, pod: str, annotations: object) -> bool:
    """Whether ADD would make the pod a node, or fail because of its annotations."""
    given = {key: value for key, value in as_dict(annotations).items() if isinstance(value, str)}
    try:
        return policy.decide(config, namespace=namespace, pod=pod, annotations=given) is not None
    except errors.Error:
        return True
