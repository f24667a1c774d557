"""The annotation table: one row per annotation that a pod may carry, parsed once to a typed value.

Where Tailscale's operator has the annotation, the name and the meaning are its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "tailscale.com/"
ENABLED = f"{PREFIX}enabled"


class Unparsable(ValueError):
    """A value that its row's parser does not take; the message says what was expected."""


class Annotation(NamedTuple):
    """A row of the table.

    ``parse`` is None where the feature is not in this version: the annotation is refused, never ignored.
    """

    name: str
    parse: Callable[[str], Any] | None
    help: str


def flag(value: str) -> bool:
    """``"true"`` or ``"false"``, as Kubernetes writes them."""
    if value not in ("true", "false"):
        raise Unparsable('"true" or "false"')
    return value == "true"


def dns_label(value: str) -> str:
    """A DNS label, RFC 1123: what a node can be called."""
    valid = 0 < len(value) <= 63 and value.isascii() and value.lower() == value
    if not valid or not value.replace("-", "").isalnum() or value.startswith("-") or value.endswith("-"):
        raise Unparsable("a DNS label: 1 to 63 of a-z, 0-9 and -, not at an end")
    return value


TABLE = (
    Annotation("enabled", flag, "Whether the pod becomes a node."),
    Annotation("hostname", dns_label, "The node's name; from the workload's name by default."),
    Annotation("required", flag, "Fail the pod's start rather than start it off the tailnet."),
    Annotation("tags", None, "The node's tags, as in tag:a,tag:b."),
    Annotation("ephemeral", None, "Whether the node is forgotten when its pod ends."),
    Annotation("exit-node", None, "Offer the pod as an exit node."),
    Annotation("use-exit-node", None, "Send the pod's traffic through an exit node."),
    Annotation("advertise-routes", None, "Subnet routes that the node offers."),
    Annotation("accept-routes", None, "Use the subnet routes of other nodes."),
    Annotation("ssh", None, "Tailscale SSH to the node."),
    Annotation("ssh-container", None, "The container that Tailscale SSH enters."),
    Annotation("funnel", None, "Ports of the pod that are open to the internet."),
    Annotation("serve", None, "Ports of the pod that are served on the tailnet."),
    Annotation("taildrop", None, "A directory of the container that receives files."),
    Annotation("dns", None, "Resolve tailnet names inside the pod."),
)

ROWS = {PREFIX + row.name: row for row in TABLE}


def parse(pod: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    """The pod's wishes by short name, typed. Annotations that are not in the table belong to somebody else.

    Raises InvalidAnnotation and UnsupportedAnnotation, which name the pod, the annotation and the value.
    """
    wishes = {}
    for key, value in annotations.items():
        row = ROWS.get(key)
        if row is None:
            continue
        if row.parse is None:
            raise errors.UnsupportedAnnotation(pod=pod, annotation=key, value=errors.show(value))
        try:
            wishes[row.name] = row.parse(value)
        except Unparsable as e:
            raise errors.InvalidAnnotation(
                pod=pod, annotation=key, value=errors.show(value), expected=e
            ) from None
    return wishes
