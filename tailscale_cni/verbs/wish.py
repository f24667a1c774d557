"""What the host and the pod ask for, taken together: the one place where configuration meets policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import policy
from ..config import Config

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
        """Of a call. Raises InvalidConfiguration, InvalidAnnotation, UnsupportedAnnotation."""
        config = Config.load(request.config)
        intent = policy.decide(
            namespace=request.pod.namespace if request.pod else None,
            pod=request.pod.name if request.pod else None,
            annotations=request.annotations or {},
            enroll=config.enroll,
            exclude_namespaces=config.exclude_namespaces,
            tags=config.tags,
        )
        return cls(config, intent)
