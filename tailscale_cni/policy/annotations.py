"""The annotation table: one row per annotation that a pod or a namespace may carry, parsed once to a typed value.

Where Tailscale's operator has the annotation, the name and the meaning are its own.
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
    """A value that its row's parser does not take."""


class NotYet(ValueError):
    """A value, or an annotation, that a later version takes."""


class Annotation(NamedTuple):
    """A row of the table.

    ``parse`` is None where the feature is not in this version: the annotation is refused, never ignored.
    ``default`` is the host's setting that holds where nobody says anything; without one, it is off.
    ``permission`` is the list in the host's ``permissions`` that has to have it.
    """

    name: str
    takes: str
    parse: Callable[[str], Any] | None
    default: str
    permission: str
    help: str

    @property
    def key(self) -> str:
        """As kubectl shows it."""
        return PREFIX + self.name


def flag(value: str) -> bool:
    """``"true"`` or ``"false"``, as Kubernetes writes them."""
    if value not in ("true", "false"):
        raise Unparsable
    return value == "true"


def dns_label(value: str) -> str:
    """What a node can be called."""
    if not is_label(value):
        raise Unparsable
    return value


def tags(value: str) -> tuple[str, ...]:
    """Each once, in their order. None at all would make the node a user's."""
    names = [name.strip(" ") for name in value.split(",", MOST_TAGS)]
    if len(names) > MOST_TAGS or not all(map(is_tag, names)):
        raise Unparsable
    return tuple(dict.fromkeys(names))


FLAG = '"true" or "false"'
LABEL = "a DNS label: 1 to 63 of a-z, 0-9 and -, not at an end"
TAGS = f"1 to {MOST_TAGS} tags, as in tag:web,tag:public"
PORTS = "ports of the pod, as in 443:8080"

TABLE = (
    Annotation("enabled", FLAG, flag, "enroll", "features", "Whether the pod becomes a node."),
    Annotation("tags", TAGS, tags, "tags", "tags", "The node's tags, instead of the host's."),
    Annotation("hostname", LABEL, dns_label, "hostnameTemplate", "features", "The node's name."),
    Annotation(
        "ephemeral",
        FLAG,
        flag,
        "ephemeral",
        "features",
        "Whether the node is forgotten when its pod ends.",
    ),
    Annotation(
        "required", FLAG, flag, "", "features", "Fail the pod's start rather than start it off the tailnet."
    ),
    Annotation("exit-node", FLAG, None, "", "features", "Offer the pod as an exit node."),
    Annotation(
        "use-exit-node", "a node", None, "", "features", "Send the pod's traffic through an exit node."
    ),
    Annotation("advertise-routes", "networks", None, "", "features", "Subnet routes that the node offers."),
    Annotation("accept-routes", FLAG, None, "", "features", "Use the subnet routes of other nodes."),
    Annotation("ssh", FLAG, None, "", "features", "Tailscale SSH to the node."),
    Annotation(
        "ssh-container", "a container", None, "", "features", "The container that Tailscale SSH enters."
    ),
    Annotation("funnel", PORTS, None, "", "features", "Ports of the pod that are open to the internet."),
    Annotation("serve", PORTS, None, "", "features", "Ports of the pod that are served on the tailnet."),
    Annotation(
        "taildrop",
        "an absolute path",
        None,
        "",
        "features",
        "A directory of the container that receives files.",
    ),
    Annotation("dns", FLAG, None, "", "features", "Resolve tailnet names inside the pod."),
)

ROWS = {row.key: row for row in TABLE}


class Wish(NamedTuple):
    """What an annotation asks for: typed, and as it was written by whom."""

    row: Annotation
    value: Any
    text: str
    who: str


def parse(who: str, annotations: Mapping[str, str]) -> dict[str, Wish]:
    """Wishes by short name. Annotations that are not in the table belong to somebody else.

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
