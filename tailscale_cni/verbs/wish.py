"""What the host, the namespace and the pod ask for, taken together: the one place where configuration meets policy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors, policy
from ..config import Config
from ..control import select
from ..policy.annotations import ENABLED
from . import cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..cni.request import Request
    from ..policy import PodIntent

SOURCE = "kubernetes.io/config.source"
"""The annotation that says where kubelet has a pod from: kubelet writes it over whatever an author wrote."""


class Wish(NamedTuple):
    """The host's configuration, and what the pod should be by it: None if it is left alone."""

    config: Config
    intent: PodIntent | None

    @classmethod
    def of(cls, request: Request) -> Wish:
        """Of a call. Raises InvalidConfiguration, InvalidAnnotation, UnsupportedAnnotation, NotPermitted, KeyHasItsTags.

        A broken configuration file fails the pods that ask to be nodes, and no other: a typing error must not stop a cluster.
        """
        annotations = request.annotations or {}
        try:
            config = load(request.config)
        except errors.Error:
            if annotations.get(ENABLED, "false") != "false":
                raise
            return cls(Config.load({**request.config, "configFile": os.devnull}), None)
        if annotations.get(ENABLED) == "true" and request.command == "ADD":
            select.start_early(select.configured(config))
        namespace, pod = (request.pod.namespace, request.pod.name) if request.pod else ("", "")
        intent = policy.decide(
            config,
            namespace=namespace,
            pod=pod,
            annotations=annotations,
            namespace_annotations=cluster.namespace_annotations(config, request),
            owner=lambda: _node(annotations) or cluster.owner(config, request),
        )
        if intent and select.is_static(config) and set(intent.tags) != set(config.tags):
            raise errors.KeyHasItsTags(
                pod=f"pod {namespace}/{pod}", tags=", ".join(intent.tags), given=", ".join(config.tags)
            )
        return cls(config, intent)


def load(entry: Mapping[str, Any]) -> Config:
    """A host's configuration, all of it looked at. Raises InvalidConfiguration."""
    config = Config.load(entry)
    policy.check(config)
    return config


def _node(annotations: Mapping[str, str]) -> policy.Owner | None:
    """The owner of a static pod, whose name ends with its Node's: by default that is the host's."""
    if annotations.get(SOURCE, "api") == "api":
        return None
    return policy.Owner("Node", os.uname().nodename)
