"""A pod's namespace annotations and owner, from the cluster's API. Without a kubeconfig, the API is not called.

A child calls the API, and the CNI call only waits for a moment, because a cluster must come up while its API is down. If the API does not
answer, the call's log line has a warning.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING

from .. import errors, linux
from ..policy import Owner
from ..policy.annotations import ENABLED, PREFIX
from ..state.namespaces import Namespaces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..cni.request import Pod, Request
    from ..config import Config


ANSWER_TIMEOUT = 1.0
"""Seconds that a call waits for a pod's owner, and for the annotations of a namespace that is new on this host."""

API_TIMEOUT = 5.0
"""Seconds for one call of the API, in the child."""

CHILD_TIMEOUT = 15
"""Seconds after which the child is ended."""

NOTHING: Mapping[str, str] = MappingProxyType({})


def namespace_annotations(config: Config, request: Request) -> Mapping[str, str]:
    """Our annotations of the pod's namespace, from the last answer of the API. A child renews them while the pod starts.

    The API is not asked for an excluded namespace, or for a pod that is annotated ``enabled: "false"``.
    """
    pod = request.pod
    if not _is_asked(config, pod) or pod is None or (request.annotations or {}).get(ENABLED) == "false":
        return NOTHING
    store = Namespaces(config.state_dir)
    known = store.get(pod.namespace)
    if not known.is_fresh:
        first = known.annotations is None
        _renew(store, config.kubeconfig, pod.namespace, first=first)
        known = store.get(pod.namespace) if first else known
    if known.failure or known.annotations is None:
        failure = known.failure or f"the Kubernetes API did not respond within {ANSWER_TIMEOUT:g} s"
        request.warn(f"the annotations of namespace {pod.namespace} may be out of date: {failure}")
    return known.annotations or NOTHING


def owner(config: Config, request: Request) -> Owner | None:
    """The pod's controller; None if the API does not answer in time."""
    pod = request.pod
    if not _is_asked(config, pod) or pod is None:
        return None
    answer = linux.run_bounded(lambda: _owner(config.kubeconfig, pod), ANSWER_TIMEOUT, CHILD_TIMEOUT)
    found = json.loads(answer or b"{}")
    if isinstance(found, list):
        return Owner(*found)
    failure = found.get("failure", f"the Kubernetes API did not respond within {ANSWER_TIMEOUT:g} s")
    request.warn(f"the hostname is derived from the pod's name, not from its owner: {failure}")
    return None


def _is_asked(config: Config, pod: Pod | None) -> bool:
    return bool(config.kubeconfig and pod and pod.namespace not in config.exclude_namespaces)


def _renew(store: Namespaces, kubeconfig: str, namespace: str, *, first: bool) -> None:
    def renew() -> bytes:
        store.renew(namespace, lambda: _ours(kubeconfig, namespace), wait=first)
        return b""

    linux.run_bounded(renew, ANSWER_TIMEOUT if first else 0, CHILD_TIMEOUT)


def _ours(kubeconfig: str, namespace: str) -> dict[str, str]:
    """In the child: our annotations of the namespace. Raises BadKubeconfig, KubernetesFailed."""
    from ..kube.client import Api
    from ..kube.kubeconfig import load

    found = Api(load(kubeconfig), API_TIMEOUT).namespace_annotations(namespace)
    if found is None:
        raise errors.KubernetesFailed(reason=f"namespace {namespace} does not exist")
    return {key: text for key, text in found.items() if key.startswith(PREFIX)}


def _owner(kubeconfig: str, pod: Pod) -> bytes:
    """In the child: the controller as a JSON list of kind and name, or ``{"failure": …}``."""
    from ..kube.client import Api
    from ..kube.kubeconfig import load

    try:
        found = Api(load(kubeconfig), API_TIMEOUT).controller(pod.namespace, pod.name, pod.uid)
    except errors.Error as e:
        return json.dumps({"failure": str(e)}).encode()
    return json.dumps(
        list(found) if found else {"failure": f"pod {pod} does not exist in the Kubernetes API"}
    ).encode()
