"""What the host and the pod ask for, taken together: the one place where configuration meets policy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import errors, policy
from ..config import Config
from ..policy.annotations import ENABLED

if TYPE_CHECKING:
    from ..cni.request import Request
    from ..policy import PodIntent


@dataclass(frozen=True)
class Wish:
    """The host's configuration, and what the pod should be by it: None if it is left alone."""

    config: Config
    intent: PodIntent | None

    @classmethod
    def of(cls, request: Request) -> Wish:
        """Of a call. Raises InvalidConfiguration, InvalidAnnotation, UnsupportedAnnotation.

        A broken configuration file fails the pods that ask to be nodes, and no other: a typing error must not stop a cluster.
        """
        annotations = request.annotations or {}
        try:
            config = Config.load(request.config)
        except errors.Error:
            if annotations.get(ENABLED, "false") != "false":
                raise
            return cls(Config.load({**request.config, "configFile": os.devnull}), None)
        intent = policy.decide(
            namespace=request.pod.namespace if request.pod else None,
            pod=request.pod.name if request.pod else None,
            annotations=annotations,
            enroll=config.enroll,
            exclude_namespaces=config.exclude_namespaces,
            tags=config.tags,
        )
        return cls(config, intent)
