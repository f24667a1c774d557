"""What the cluster's API says of a pod: its namespace's annotations, and its owner. Nothing, where no kubeconfig is configured.

It is asked in a child that nobody waits for long, and whatever it does not say is a warning in the call's log line: a cluster whose API
is down must come up all the same.
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


PATIENCE = 1.0
"""Seconds that a pod waits: for its owner, and the first one of a namespace that the host has never seen for its annotations."""

CALL_SECONDS = 5.0
LONGEST = 15
"""Seconds after which a child is ended, whatever it waits for."""

NOTHING: Mapping[str, str] = MappingProxyType({})


def namespace_annotations(host: Config, request: Request) -> Mapping[str, str]:
    """The annotations of the pod's namespace that are ours, as the API had them last; they are renewed while the pod starts.

    Nobody asks about a namespace that is excluded, nor for a pod that says itself that it is no node.
    """
    pod = request.pod
    if not _is_asked(host, pod) or pod is None or (request.annotations or {}).get(ENABLED) == "false":
        return NOTHING
    store = Namespaces(host.state_dir)
    known = store.get(pod.namespace)
    if not known.is_fresh:
        first = known.annotations is None
        _renew(store, host.kubeconfig, pod.namespace, first=first)
        known = store.get(pod.namespace) if first else known
    if known.failure or known.annotations is None:
        failure = known.failure or f"the Kubernetes API did not respond within {PATIENCE:g} s"
        request.warn(f"the annotations of namespace {pod.namespace} may be out of date: {failure}")
    return known.annotations or NOTHING


def owner(host: Config, request: Request) -> Owner | None:
    """Who made the pod, if the API says so in time; its name has to do where it does not."""
    pod = request.pod
    if not _is_asked(host, pod) or pod is None:
        return None
    answer = linux.ask(lambda: _owner(host.kubeconfig, pod), PATIENCE, LONGEST)
    found = json.loads(answer or b"{}")
    if isinstance(found, list):
        return Owner(*found)
    failure = found.get("failure", f"the Kubernetes API did not respond within {PATIENCE:g} s")
    request.warn(f"the hostname is derived from the pod's name, not from its owner: {failure}")
    return None


def _is_asked(host: Config, pod: Pod | None) -> bool:
    return bool(host.kubeconfig and pod and pod.namespace not in host.exclude_namespaces)


def _renew(store: Namespaces, kubeconfig: str, namespace: str, *, first: bool) -> None:
    def renew() -> bytes:
        store.renew(namespace, lambda: _ours(kubeconfig, namespace), wait=first)
        return b""

    linux.ask(renew, PATIENCE if first else 0, LONGEST)


def _ours(kubeconfig: str, namespace: str) -> dict[str, str]:
    """In the child. Raises BadKubeconfig, KubernetesFailed."""
    from .. import kube

    found = kube.Api(kube.load(kubeconfig), CALL_SECONDS).namespace_annotations(namespace)
    if found is None:
        raise errors.KubernetesFailed(reason=f"namespace {namespace} does not exist")
    return {key: text for key, text in found.items() if key.startswith(PREFIX)}


def _owner(kubeconfig: str, pod: Pod) -> bytes:
    """In the child: a list of kind and name, or why there is none."""
    from .. import kube

    try:
        found = kube.Api(kube.load(kubeconfig), CALL_SECONDS).controller(pod.namespace, pod.name, pod.uid)
    except errors.Error as e:
        return json.dumps({"failure": str(e)}).encode()
    return json.dumps(
        list(found) if found else {"failure": f"pod {pod} does not exist in the Kubernetes API"}
    ).encode()
