"""Decide what node a pod becomes: pure functions from configuration and annotations to a PodIntent."""

from .host import check
from .hostname import Owner, numbered, tailed
from .intent import PodIntent, decide

__all__ = ["Owner", "PodIntent", "check", "decide", "numbered", "tailed"]
