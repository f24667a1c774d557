"""Which versions of the protocol are spoken, and what each verb needs: two tables and their questions."""

from __future__ import annotations

from typing import NamedTuple

from tailscale_cni import errors

from . import document

SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Every version that is answered in kind, oldest first. Before 0.3.0 there were no chained plugins."""

NEWEST = SUPPORTED[-1]


class Verb(NamedTuple):
    """A row of the protocol: SPEC section 2, "CNI operations"."""

    name: str
    since: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    needs_prev_result: bool = False


_ATTACHMENT = ("CNI_CONTAINERID", "CNI_IFNAME")

VERBS = {
    row.name: row
    for row in (
        Verb("ADD", "0.3.0", (*_ATTACHMENT, "CNI_NETNS"), ("CNI_ARGS", "CNI_PATH"), needs_prev_result=True),
        Verb("DEL", "0.3.0", _ATTACHMENT, ("CNI_NETNS", "CNI_ARGS", "CNI_PATH")),
        Verb("CHECK", "0.4.0", (*_ATTACHMENT, "CNI_NETNS"), ("CNI_ARGS", "CNI_PATH"), needs_prev_result=True),
        Verb("GC", "1.1.0", ("CNI_PATH",)),
        Verb("STATUS", "1.1.0", (), ("CNI_PATH",)),
        Verb("VERSION", "0.3.0"),
    )
}


def negotiate(given: object) -> str:
    """The version to speak, for the ``cniVersion`` that the caller gave. None, for none, means 0.1.0.

    Raises IncompatibleVersion for one that is not spoken, InvalidConfiguration for what is no string.
    """
    if given is not None and not isinstance(given, str):
        raise errors.InvalidConfiguration(
            where="the network configuration",
            key="cniVersion",
            reason=f"it is {document.kind(given)}",
            expected=f"Expected one of {', '.join(SUPPORTED)}.",
        )
    if given not in SUPPORTED:
        version = errors.show(given) if given else "0.1.0 (which a configuration without cniVersion means)"
        raise errors.IncompatibleVersion(version=version, supported=", ".join(SUPPORTED))
    return given


def check_verb(verb: Verb, version: str) -> None:
    """Raises VerbTooNew if the (supported) version does not have the verb yet."""
    if SUPPORTED.index(version) < SUPPORTED.index(verb.since):
        raise errors.VerbTooNew(verb=verb.name, version=version, since=verb.since)


def report(given: object) -> dict[str, object]:
    """The answer to VERSION, in the caller's version if it is spoken, else in the newest."""
    version = given if isinstance(given, str) and given in SUPPORTED else NEWEST
    return {"cniVersion": version, "supportedVersions": list(SUPPORTED)}
