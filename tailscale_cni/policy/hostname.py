"""The default hostname of a node. It contains the name of the pod's workload, which is derived from the pod's name.

Kubernetes builds a pod's name from its controller's name, numbers, and random characters of an alphabet without vowels
(k8s.io/apimachinery/pkg/util/rand). The pod's owner is known only if the cluster's API is accessible. Otherwise the workload is
derived from the shape of the name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_HOSTNAME = 63
"""Characters of a DNS label."""

RANDOM = "[bcdfghjklmnpqrstvwxz2456789]{5}"
HASH = "[456789bcdf]{7,10}"
"""A pod template's hash: a 32-bit number in decimal, with its digits encoded in the same alphabet."""
ORDINAL = "(?P<ordinal>0|[1-9][0-9]{0,5})"
SCHEDULE = "(?:(?:2[5-9]|3[0-9])[0-9]{6}|1[5-9][0-9]{8}|2[0-9]{9})"
"""The suffix of a CronJob's job: minutes since 1970, for the years 2017 to 2046, or seconds (before Kubernetes 1.21)."""
KIND = "(?:-(?:deployment|replicaset|statefulset|daemonset|cronjob|job))?"

SHAPES = (
    rf"(?P<name>.+?){KIND}-{HASH}-{RANDOM}",  # of a Deployment
    rf"(?P<name>.+?){KIND}(?:-{SCHEDULE})?(?:-{ORDINAL})?-{RANDOM}",  # of a CronJob, Job, DaemonSet or ReplicaSet
    rf"(?P<name>.+?){KIND}-{ORDINAL}",  # of a StatefulSet
    rf"(?=.{{63}}$)(?P<name>.+?){KIND}(?:-[456789bcdf]{{0,10}})?{RANDOM}",  # a long name: cut to 58 characters, then the random part
    rf"(?P<name>.+?){KIND}",
)
"""The shapes of pods' names. The first match counts. They are compiled on use, because compiling takes longer than matching."""


class Owner(NamedTuple):
    """A pod's controller, from its owner references. For a static pod, this is the Node."""

    kind: str
    name: str


class Workload(NamedTuple):
    """The workload that a pod belongs to, and the pod's ordinal in it as a decimal string; empty if the pods have none."""

    name: str
    ordinal: str


OWNED = {
    "ReplicaSet": (rf"(?P<name>.+?){KIND}(?:-{HASH})?", None),
    "DaemonSet": (rf"(?P<name>.+?){KIND}", None),
    "ReplicationController": (rf"(?P<name>.+?){KIND}", None),
    "Job": (rf"(?P<name>.+?){KIND}(?:-{SCHEDULE})?", rf".*-{ORDINAL}-{RANDOM}"),
}
OTHERS = (rf"(?P<name>.+?){KIND}", rf".*-{ORDINAL}")
"""For each kind of owner: the pattern of the workload's name in the owner's name, and of the ordinal in the rest of the pod's name."""


def workload(pod: str, owner: Owner | None = None) -> Workload:
    """The workload of a pod: ``plex-deployment-7b5d9c6f8-x2c4z`` → ``plex``; ``postgres-0`` → ``postgres``, ``0``."""
    if owner is None:
        return _first(SHAPES, pod)
    if owner.kind == "Node":
        return Workload(pod.removesuffix(f"-{owner.name.lower()}") or pod, "")
    in_owner, in_pod = OWNED.get(owner.kind, OTHERS)
    rest = pod.removeprefix(owner.name)  # the whole name, if Kubernetes cut the owner's name
    match = re.fullmatch(in_pod, rest) if in_pod else None
    return _first((in_owner,), owner.name)._replace(ordinal=match["ordinal"] if match else "")


def is_stateful(pod: str, owner: Owner | None = None) -> bool:
    """Whether the pod belongs to a StatefulSet, whose pods keep their identity when they are recreated."""
    if owner:
        return owner.kind == "StatefulSet"
    return bool(workload(pod).ordinal) and not re.fullmatch(rf".*-{RANDOM}", pod)


def numbered(name: str, number: int) -> str:
    """The hostname with a number: ``web`` for 0, then ``web-1``, ``web-2``."""
    return tailed(name, f"-{number}" if number else "")


def tailed(name: str, tail: str) -> str:
    """``name`` and ``tail``. If they are too long together, the name is cut."""
    return f"{name[: MAX_HOSTNAME - len(tail)].rstrip('-')}{tail}"


def _first(shapes: tuple[str, ...], text: str) -> Workload:
    """The workload by the first matching shape; ``text`` itself if none matches."""
    match = next(filter(None, (re.fullmatch(shape, text) for shape in shapes)), None)
    found = match.groupdict() if match else {}
    return Workload(found.get("name") or text, found.get("ordinal") or "")


def render(template: str, workload: Workload, *, namespace: str, pod: str, cluster: str) -> str:
    """The hostname from a template: always a DNS label of at most 63 characters.

    If it would be longer, the longest names are cut at their ends. An ordinal is never cut, because it tells the pods of a workload
    apart.
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
    """The literal texts around the fields of a template (one more than fields), and the names of the fields."""
    pieces = re.split(r"\{(\w+)\}", template)
    return pieces[::2], pieces[1::2]


def label(text: str) -> str:
    """``text`` as a DNS label: other characters become ``-``. The result is ``pod`` if nothing is left."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return kept.strip("-")[:MAX_HOSTNAME].rstrip("-") or "pod"
