"""What a pod should be: pure functions from the host's configuration and a pod's annotations to a PodIntent."""

from .intent import PodIntent, decide

__all__ = ["PodIntent", "decide"]
