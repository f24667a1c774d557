"""What a node is called when nobody said: like its workload, whose name is in the pod's.

Kubernetes builds a pod's name from its controller's, characters of an alphabet of its own, which has no vowels and
so meets few words (k8s.io/apimachinery/pkg/util/rand), and numbers. Who owns the pod is only known where the API is
at hand; without it, the shape of the name has to do.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_HOSTNAME = 63
"""Characters of a DNS label."""

RANDOM = "[bcdfghjklmnpqrstvwxz2456789]{5}"
HASH = "[456789bcdf]{7,10}"
"""Of a pod template: a 32-bit number in decimal, whose digits are encoded in the alphabet."""
ORDINAL = "(?P<ordinal>0|[1-9][0-9]{0,5})"
SCHEDULE = "(?:(?:2[5-9]|3[0-9])[0-9]{6}|1[5-9][0-9]{8}|2[0-9]{9})"
"""Of a CronJob's job: minutes since 1970, for years from 2017 to 2046, or seconds (before Kubernetes 1.21)."""
KIND = "(?:-(?:deployment|replicaset|statefulset|daemonset|cronjob|job))?"

SHAPES = (
    rf"(?P<name>.+?){KIND}-{HASH}-{RANDOM}",  # a Deployment's
    rf"(?P<name>.+?){KIND}(?:-{SCHEDULE})?(?:-{ORDINAL})?-{RANDOM}",  # a CronJob's, Job's, DaemonSet's, ReplicaSet's
    rf"(?P<name>.+?){KIND}-{ORDINAL}",  # a StatefulSet's
    rf"(?=.{{63}}$)(?P<name>.+?){KIND}(?:-[456789bcdf]{{0,10}})?{RANDOM}",  # a long one's: cut to 58, then the random part
    rf"(?P<name>.+?){KIND}",
)
"""Of pods' names; the first that fits. They are compiled when they are needed: that takes longer than matching."""


class Owner(NamedTuple):
    """A pod's controller, from its owner references; of a static pod, the Node."""

    kind: str
    name: str


class Workload(NamedTuple):
    """What a pod is one of, and which one: ``ordinal`` is a number, or empty where pods have none."""

    name: str
    ordinal: str


OWNED = {
    "ReplicaSet": (rf"(?P<name>.+?){KIND}(?:-{HASH})?", None),
    "DaemonSet": (rf"(?P<name>.+?){KIND}", None),
    "ReplicationController": (rf"(?P<name>.+?){KIND}", None),
    "Job": (rf"(?P<name>.+?){KIND}(?:-{SCHEDULE})?", rf".*-{ORDINAL}-{RANDOM}"),
}
OTHERS = (rf"(?P<name>.+?){KIND}", rf".*-{ORDINAL}")
"""By the kind of owner: what the workload's name is in the owner's, and what the ordinal is in the rest of the pod's."""


def workload(pod: str, owner: Owner | None = None) -> Workload:
    """What a pod is one of: ``plex-deployment-7b5d9c6f8-x2c4z`` → ``plex``; ``postgres-0`` → ``postgres``, ``0``."""
    if owner is None:
        return _first(SHAPES, pod)
    if owner.kind == "Node":
        return Workload(pod.removesuffix(f"-{owner.name.lower()}") or pod, "")
    in_owner, in_pod = OWNED.get(owner.kind, OTHERS)
    rest = pod.removeprefix(owner.name)  # of one that was cut: all of it
    match = re.fullmatch(in_pod, rest) if in_pod else None
    return _first((in_owner,), owner.name)._replace(ordinal=match["ordinal"] if match else "")


def is_stateful(pod: str, owner: Owner | None = None) -> bool:
    """Whether the pod is a StatefulSet's, which is the same one again when it comes back."""
    if owner:
        return owner.kind == "StatefulSet"
    return bool(workload(pod).ordinal) and not re.fullmatch(rf".*-{RANDOM}", pod)


def numbered(name: str, number: int) -> str:
    """What the node of a number is called: ``web``, ``web-1``, ``web-2``."""
    return tailed(name, f"-{number}" if number else "")


def tailed(name: str, tail: str) -> str:
    """A name with something at its end, which is not what is cut if they are too long together."""
    return f"{name[: MAX_HOSTNAME - len(tail)].rstrip('-')}{tail}"


def _first(shapes: tuple[str, ...], text: str) -> Workload:
    match = next(filter(None, (re.fullmatch(shape, text) for shape in shapes)), None)
    found = match.groupdict() if match else {}
    return Workload(found.get("name") or text, found.get("ordinal") or "")


def render(template: str, workload: Workload, *, namespace: str, pod: str, cluster: str) -> str:
    """A hostname: a DNS label of at most 63 characters, whatever the names are.

    Where it would be longer, the longest names are cut at their ends, and never an ordinal: what are two
    pods of a workload stay two.
    """
    bare = re.fullmatch(rf"(?P<name>.+)-{ORDINAL}", pod)
    fields = {
        "workload": workload,
        "pod": Workload(bare["name"], bare["ordinal"]) if bare else Workload(pod, ""),
        "namespace": Workload(namespace, ""),
        "cluster": Workload(cluster, ""),
    }
    literals, names = _split(template)
    heads = [fields[name].name for name in names]
    tails = [f"-{fields[name].ordinal}" if fields[name].ordinal else "" for name in names]
    room = MAX_HOSTNAME - len("".join((*literals, *tails)))
    while any(heads) and len("".join(heads)) > room:
        longest = max(range(len(heads)), key=lambda index: len(heads[index]))
        heads[longest] = heads[longest][:-1]
    middle = (f"{head.rstrip('-.')}{tail}" for head, tail in zip(heads, tails, strict=True))
    parts = (f"{part}{literal}" for part, literal in zip(middle, literals[1:], strict=True))
    return label(literals[0] + "".join(parts))


def _split(template: str) -> tuple[list[str], list[str]]:
    """The text between the fields of a template, one more than there are fields, and their names."""
    pieces = re.split(r"\{(\w+)\}", template)
    return pieces[::2], pieces[1::2]


def label(text: str) -> str:
    """The nearest DNS label; ``pod`` where nothing is left."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return kept.strip("-")[:MAX_HOSTNAME].rstrip("-") or "pod"
