"""From configuration and annotations to what a pod should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import annotations as table
from . import hostname

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class PodIntent:
    """The node that a pod should be."""

    hostname: str
    tags: tuple[str, ...]
    ephemeral: bool
    required: bool


def decide(
    *,
    namespace: str | None,
    pod: str | None,
    annotations: Mapping[str, str],
    enroll: str,
    exclude_namespaces: tuple[str, ...],
    tags: tuple[str, ...],
) -> PodIntent | None:
    """What the pod should be; None if it should not be a node.

    A pod that says ``enabled: "false"``, or says nothing where only annotated pods are enrolled, is left
    alone whatever else it says. Raises InvalidAnnotation, UnsupportedAnnotation.
    """
    who = f"pod {namespace}/{pod}"
    own = {table.ENABLED: annotations[table.ENABLED]} if table.ENABLED in annotations else {}
    by_default = enroll == "all" and namespace not in exclude_namespaces
    if not table.parse(who, own).get("enabled", by_default):
        return None
    wishes = table.parse(who, annotations)
    return PodIntent(
        hostname=wishes.get("hostname") or hostname.from_pod(pod or "pod"),
        tags=tags,
        ephemeral=True,
        required=wishes.get("required", False),
    )
