"""What a node is called when nobody said: the workload's name, from the pod's.

Without the API at hand, names are all there is: Kubernetes builds a pod's name from its controller's and
characters of an alphabet of its own, which has no vowels and so meets few words
(k8s.io/apimachinery/pkg/util/rand).
"""

from __future__ import annotations

SAFE = frozenset("bcdfghjklmnpqrstvwxz2456789")
SUFFIX = 5
HASH = range(8, 11)
KINDS = ("deployment", "statefulset", "daemonset", "replicaset")


def from_pod(pod: str) -> str:
    """``plex-deployment-7b5d9c6f8-xyz12`` → ``plex``; ``postgres-0`` stays.

    Always a DNS label of at most 63 characters.
    """
    words = pod.lower().split("-")
    if len(words) > 1 and len(words[-1]) == SUFFIX and SAFE.issuperset(words[-1]):
        words.pop()
        if len(words) > 1 and len(words[-1]) in HASH and SAFE.issuperset(words[-1]):
            words.pop()
    if len(words) > 1 and words[-1] in KINDS:
        words.pop()
    return label("-".join(words))


def label(text: str) -> str:
    """The nearest DNS label; ``pod`` where nothing is left."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return kept.strip("-")[:63].rstrip("-") or "pod"
