"""From configuration and annotations to what a pod should be."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from . import annotations as table
from . import hostname
from .permissions import demand, namespace_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..config import Config
    from .annotations import Wish
    from .hostname import Owner

NOTHING: Mapping[str, str] = MappingProxyType({})


class PodIntent(NamedTuple):
    """The node that a pod should be."""

    name: str
    """What it is called; the next pods of this name have a number behind it."""
    number: int | None
    """The number that the pod wants, where its own name has one and the node's has not; None: the lowest that is free."""
    tags: tuple[str, ...]
    ephemeral: bool
    required: bool
    stateful: bool = False
    """Whether it is a StatefulSet's, which is the same one again when it comes back."""


def decide(
    host: Config,
    *,
    namespace: str,
    pod: str,
    annotations: Mapping[str, str],
    namespace_annotations: Mapping[str, str] = NOTHING,
    owner: Callable[[], Owner | None] = lambda: None,
) -> PodIntent | None:
    """What the pod should be; None if it should not be a node.

    Later wins: the host's defaults, what the host's configuration says of the namespace, the namespace's annotations
    as the API has them, the pod's own. A pod that says ``enabled: "false"``, or says nothing where only annotated pods are
    enrolled, is left alone whatever else it says. ``owner`` finds out who made the pod, if the node's name depends on it.
    Raises InvalidAnnotation, UnsupportedAnnotation, NotPermitted.
    """
    layers = {
        f"namespace {namespace}, by {host.origin['namespaces']}": host.namespaces.get(namespace, NOTHING),
        f"namespace {namespace}": namespace_annotations,
        f"pod {namespace}/{pod}": annotations,
    }
    if not _is_enrolled(host, namespace, layers):
        return None
    given, *others = (table.parse(who, layer) for who, layer in layers.items())
    asked = {name: wish for layer in others for name, wish in layer.items()}
    default_tags = given["tags"].value if "tags" in given else host.tags
    demand(host, namespace, asked, default_tags)
    return _intent(host, namespace, pod, given | asked, owner)


def _is_enrolled(host: Config, namespace: str, layers: Mapping[str, Mapping[str, str]]) -> bool:
    said = [(who, layer[table.ENABLED]) for who, layer in layers.items() if table.ENABLED in layer]
    if said:
        who, text = said[-1]
        return bool(table.parse(who, {table.ENABLED: text})["enabled"].value)
    return host.enroll == "all" and namespace not in host.exclude_namespaces


def _intent(
    host: Config, namespace: str, pod: str, wishes: Mapping[str, Wish], owner: Callable[[], Owner | None]
) -> PodIntent:
    values = {name: wish.value for name, wish in wishes.items()}
    tags = values.get("tags", host.tags)
    if host.auto_namespace_tag and namespace:
        tags = (*tags, namespace_tag(namespace))
    settled = "ephemeral" in values and ("hostname" in values or "{workload}" not in host.hostname_template)
    who = None if settled else owner()  # it may have to be asked for
    workload = hostname.workload(pod, who)
    stateful = hostname.is_stateful(pod, who)
    by_default = hostname.render(
        host.hostname_template,
        workload,
        namespace=namespace,
        pod=pod,
        cluster=host.cluster_name,
    )
    return PodIntent(
        name=values.get("hostname", by_default),
        number=int(workload.ordinal) if "hostname" in values and workload.ordinal else None,
        tags=tuple(dict.fromkeys(tags)),
        ephemeral=values.get("ephemeral", host.ephemeral and not stateful),
        required=values.get("required", False),
        stateful=stateful,
    )
