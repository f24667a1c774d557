"""Decide from configuration and annotations whether a pod becomes a node, and which."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from . import annotations as table
from . import hostname
from .permissions import check_permitted, namespace_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..config import Config
    from .annotations import Asked
    from .hostname import Owner

NOTHING: Mapping[str, str] = MappingProxyType({})


class PodIntent(NamedTuple):
    """The node that a pod should become."""

    name: str
    """The hostname. If several pods want it, a number is appended."""
    number: int | None
    """The number to append: the ordinal in the pod's name, if the hostname does not contain it. None: the lowest free number."""
    tags: tuple[str, ...]
    ephemeral: bool
    required: bool
    stateful: bool = False
    """Whether the pod belongs to a StatefulSet, whose pods keep their identity when they are recreated."""


def decide(
    config: Config,
    *,
    namespace: str,
    pod: str,
    annotations: Mapping[str, str],
    namespace_annotations: Mapping[str, str] = NOTHING,
    owner: Callable[[], Owner | None] = lambda: None,
) -> PodIntent | None:
    """The node that the pod should become; None if it should not become a node.

    Precedence, lowest first: the host's defaults, the host's configuration for the namespace, the namespace's annotations from the
    cluster's API (``namespace_annotations``), the pod's annotations. The other annotations of a pod that is not enrolled are not
    looked at. ``owner`` returns the pod's controller; it is called only if the answer is needed, because it may ask the API.
    Raises InvalidAnnotation, UnsupportedAnnotation, NotPermitted.
    """
    layers = {
        f"namespace {namespace}, by {config.origin['namespaces']}": config.namespaces.get(namespace, NOTHING),
        f"namespace {namespace}": namespace_annotations,
        f"pod {namespace}/{pod}": annotations,
    }
    if not _is_enrolled(config, namespace, layers):
        return None
    given, *others = (table.parse(who, layer) for who, layer in layers.items())
    asked = {name: one for layer in others for name, one in layer.items()}
    default_tags = given["tags"].value if "tags" in given else config.tags
    check_permitted(config, namespace, asked, default_tags)
    return _intent(config, namespace, pod, given | asked, owner)


def _is_enrolled(config: Config, namespace: str, layers: Mapping[str, Mapping[str, str]]) -> bool:
    said = [(who, layer[table.ENABLED]) for who, layer in layers.items() if table.ENABLED in layer]
    if said:
        who, text = said[-1]
        return bool(table.parse(who, {table.ENABLED: text})["enabled"].value)
    return config.enroll == "all" and namespace not in config.exclude_namespaces


def _intent(
    config: Config, namespace: str, pod: str, asked: Mapping[str, Asked], owner: Callable[[], Owner | None]
) -> PodIntent:
    values = {name: one.value for name, one in asked.items()}
    tags = values.get("tags", config.tags)
    if config.auto_namespace_tag and namespace:
        tags = (*tags, namespace_tag(namespace))
    settled = "ephemeral" in values and ("hostname" in values or "{workload}" not in config.hostname_template)
    who = None if settled else owner()  # it may have to ask the API
    workload = hostname.workload(pod, who)
    stateful = hostname.is_stateful(pod, who)
    by_default = hostname.render(
        config.hostname_template,
        workload,
        namespace=namespace,
        pod=pod,
        cluster=config.cluster_name,
    )
    return PodIntent(
        name=values.get("hostname", by_default),
        number=int(workload.ordinal) if "hostname" in values and workload.ordinal else None,
        tags=tuple(dict.fromkeys(tags)),
        ephemeral=values.get("ephemeral", config.ephemeral and not stateful),
        required=values.get("required", False),
        stateful=stateful,
    )
