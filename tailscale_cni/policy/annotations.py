"""The annotation table: one row per annotation that a pod or a namespace may carry, parsed once to a typed value.

Annotations that Tailscale's Kubernetes operator also has keep its name and meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from ..tailnet import is_label, is_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "tailscale.com/"
ENABLED = f"{PREFIX}enabled"
MOST_TAGS = 32


class Unparsable(ValueError):
    """A value that the parser of its row rejects."""


class NotYet(ValueError):
    """An annotation, or a value, that this version does not support."""


class Annotation(NamedTuple):
    """A row of the table.

    ``takes`` describes valid values. ``parse`` is None for a feature that is not implemented: the annotation is rejected.
    ``default`` is the host's setting that applies without the annotation; if it is empty, the feature is off.
    ``permission`` is the list in the host's ``permissions`` that must contain the value (``tags``) or the name (``features``).
    """

    name: str
    takes: str
    parse: Callable[[str], Any] | None
    default: str
    permission: str
    help: str

    @property
    def key(self) -> str:
        """The full name, as kubectl shows it."""
        return PREFIX + self.name


def flag(value: str) -> bool:
    """Parse ``"true"`` or ``"false"``. Raises Unparsable."""
    if value not in ("true", "false"):
        raise Unparsable
    return value == "true"


def dns_label(value: str) -> str:
    """Parse a hostname. Raises Unparsable."""
    if not is_label(value):
        raise Unparsable
    return value


def tags(value: str) -> tuple[str, ...]:
    """Parse a comma-separated list of tags, without duplicates, in order. Raises Unparsable, also for none: such a node is a user's."""
    names = [name.strip(" ") for name in value.split(",", MOST_TAGS)]
    if len(names) > MOST_TAGS or not all(map(is_tag, names)):
        raise Unparsable
    return tuple(dict.fromkeys(names))


FLAG = '"true" or "false"'
LABEL = "a DNS label: 1 to 63 characters of a-z, 0-9 and -, not starting or ending with -"
TAGS = f"1 to {MOST_TAGS} tags, as in tag:web,tag:public"
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


class Wish(NamedTuple):
    """A parsed annotation: its row, typed value, original text, and ``who`` set it (a pod, a namespace or a host)."""

    row: Annotation
    value: Any
    text: str
    who: str


def parse(who: str, annotations: Mapping[str, str]) -> dict[str, Wish]:
    """Return the parsed annotations by short name. Annotations that are not in the table are ignored.

    Raises InvalidAnnotation and UnsupportedAnnotation, which name ``who``, the annotation and the value.
    """
    rows = ((ROWS[key], text) for key, text in annotations.items() if key in ROWS)
    return {row.name: _wish(who, row, text) for row, text in rows}


def _wish(who: str, row: Annotation, text: str) -> Wish:
    try:
        if row.parse is None:
            raise NotYet
        return Wish(row, row.parse(text), text, who)
    except NotYet:
        raise errors.UnsupportedAnnotation(pod=who, annotation=row.key, value=errors.show(text)) from None
    except Unparsable:
        raise errors.InvalidAnnotation(
            pod=who, annotation=row.key, value=errors.show(text), expected=row.takes
        ) from None
