"""Decides from a call, the configuration and the policy which node the pod should be. No other module combines the two."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors, policy
from ..config import Config, load_config
from ..control import select
from ..policy.annotations import ENABLED
from . import cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..cni.request import Request
    from ..policy import PodIntent


SOURCE = "kubernetes.io/config.source"
"""The annotation for the source from which kubelet got the pod. Kubelet overwrites the value of the pod's author."""


class Resolution(NamedTuple):
    """The host's configuration, and the intent for the pod's node; None if the pod should not be a node."""

    config: Config
    intent: PodIntent | None


def resolve(request: Request) -> Resolution:
    """Combine the configuration of the host and the annotations of the call's namespace and pod.

    A mistake in the configuration file fails only pods that ask to be nodes, so that it cannot stop a cluster.
    Raises InvalidConfiguration, InvalidAnnotation, UnsupportedAnnotation, NotPermitted, KeyHasItsTags.
    """
    annotations = request.annotations or {}
    try:
        config = load(request.config)
    except errors.Error:
        if annotations.get(ENABLED, "false") != "false":
            raise
        return Resolution(load_config({**request.config, "configFile": os.devnull}), None)
    if request.command == "ADD" and annotations.get(ENABLED) == "true":
        select.start_early(select.configured(config))  # the child imports while the policy decides
    namespace, pod = (request.pod.namespace, request.pod.name) if request.pod else ("", "")
    intent = policy.decide(
        config,
        namespace=namespace,
        pod=pod,
        annotations=annotations,
        namespace_annotations=cluster.namespace_annotations(config, request),
        owner=lambda: _static_pod_owner(annotations) or cluster.owner(config, request),
    )
    if intent and select.is_static(config) and set(intent.tags) != set(config.tags):
        raise errors.KeyHasItsTags(
            pod=f"pod {namespace}/{pod}", tags=", ".join(intent.tags), given=", ".join(config.tags)
        )
    return Resolution(config, intent)


def load(entry: Mapping[str, Any]) -> Config:
    """The host's configuration, with its annotations and permissions checked. Raises InvalidConfiguration."""
    config = load_config(entry)
    policy.check(config)
    return config


def _static_pod_owner(annotations: Mapping[str, str]) -> policy.Owner | None:
    """The Node as the owner of a static pod. The pod's name ends with the Node's name, which by default is the host's name."""
    if annotations.get(SOURCE, "api") == "api":
        return None
    return policy.Owner("Node", os.uname().nodename)
