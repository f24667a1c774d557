"""What a pod should be: pure functions from configuration and annotations to a PodIntent."""

from .intent import PodIntent, decide

__all__ = ["PodIntent", "decide"]
