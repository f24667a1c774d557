"""The annotation table: one row per annotation that a pod or a namespace may carry, parsed once to a typed value.

Annotations that Tailscale's Kubernetes operator also has keep its names and meanings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from ..tailnet import is_label, is_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "tailscale.com/"
ENABLED = f"{PREFIX}enabled"
MAX_TAGS = 32
"""Tags of one annotation."""


class Unparsable(ValueError):
    """The parser of a row rejects the value."""


class Unsupported(ValueError):
    """This version does not support the annotation or the value; a later one may."""


class Annotation(NamedTuple):
    """A row of the table.

    ``parse`` turns the text into a typed value. It is None if this version does not have the feature; the annotation is then rejected,
    never ignored. ``takes`` describes the values for error messages. ``default`` is the host's setting that supplies the default; an
    annotation without one is off by default. ``permission`` is the list in the host's ``permissions`` that must allow it.
    """

    name: str
    takes: str
    parse: Callable[[str], Any] | None
    default: str
    permission: str
    help: str

    @property
    def key(self) -> str:
        """The full annotation key, as kubectl shows it."""
        return PREFIX + self.name


def flag(value: str) -> bool:
    """Parse ``"true"`` or ``"false"``, as Kubernetes writes them. Raises Unparsable."""
    if value not in ("true", "false"):
        raise Unparsable
    return value == "true"


def dns_label(value: str) -> str:
    """Parse a hostname: a DNS label. Raises Unparsable."""
    if not is_label(value):
        raise Unparsable
    return value


def tags(value: str) -> tuple[str, ...]:
    """Parse a comma-separated list of tags; duplicates are dropped, the order is kept. Raises Unparsable.

    An empty list is rejected, because a node without tags would belong to a user.
    """
    names = [name.strip(" ") for name in value.split(",", MAX_TAGS)]
    if len(names) > MAX_TAGS or not all(map(is_tag, names)):
        raise Unparsable
    return tuple(dict.fromkeys(names))


FLAG = '"true" or "false"'
LABEL = "a DNS label: 1 to 63 characters of a-z, 0-9 and -, not starting or ending with -"
TAGS = f"1 to {MAX_TAGS} tags, as in tag:web,tag:public"
PORTS = "ports of the pod, as in 443:8080"

TABLE = (
    Annotation("enabled", FLAG, flag, "enroll", "features", "Whether the pod becomes a node."),
    Annotation("tags", TAGS, tags, "tags", "tags", "The node's tags. They replace the default tags."),
    Annotation("hostname", LABEL, dns_label, "hostnameTemplate", "features", "The node's hostname."),
    Annotation(
        "ephemeral",
        FLAG,
        flag,
        "ephemeral",
        "features",
        "Whether the node is deleted when its pod ends.",
    ),
    Annotation(
        "required",
        FLAG,
        flag,
        "",
        "features",
        "Whether the pod fails to start while its node is not connected.",
    ),
    Annotation("exit-node", FLAG, None, "", "features", "Offer the node as an exit node."),
    Annotation(
        "use-exit-node", "a node", None, "", "features", "Send the pod's traffic through an exit node."
    ),
    Annotation("advertise-routes", "networks", None, "", "features", "Advertise these subnet routes."),
    Annotation("accept-routes", FLAG, None, "", "features", "Use the subnet routes of other nodes."),
    Annotation("ssh", FLAG, None, "", "features", "Enable Tailscale SSH on the node."),
    Annotation(
        "ssh-container", "a container", None, "", "features", "The container for Tailscale SSH sessions."
    ),
    Annotation("funnel", PORTS, None, "", "features", "Ports of the pod to expose to the internet."),
    Annotation("serve", PORTS, None, "", "features", "Ports of the pod to serve on the tailnet."),
    Annotation(
        "taildrop",
        "an absolute path",
        None,
        "",
        "features",
        "A directory in the container for received files.",
    ),
    Annotation("dns", FLAG, None, "", "features", "Resolve tailnet names in the pod."),
)

ROWS = {row.key: row for row in TABLE}


class Asked(NamedTuple):
    """An annotation that a pod or namespace has: its row, its typed value, its text, and ``who`` has it, for error messages."""

    row: Annotation
    value: Any
    text: str
    who: str


def parse(who: str, annotations: Mapping[str, str]) -> dict[str, Asked]:
    """Parse the annotations of one object (``who``), by short name. Annotations that are not in the table are ignored.

    Raises InvalidAnnotation and UnsupportedAnnotation, which name ``who``, the annotation and the value.
    """
    rows = ((ROWS[key], text) for key, text in annotations.items() if key in ROWS)
    return {row.name: _parse_one(who, row, text) for row, text in rows}


def _parse_one(who: str, row: Annotation, text: str) -> Asked:
    try:
        if row.parse is None:
            raise Unsupported
        return Asked(row, row.parse(text), text, who)
    except Unsupported:
        raise errors.UnsupportedAnnotation(pod=who, annotation=row.key, value=errors.show(text)) from None
    except Unparsable:
        raise errors.InvalidAnnotation(
            pod=who, annotation=row.key, value=errors.show(text), expected=row.takes
        ) from None
