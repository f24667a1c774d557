"""The supported versions of the CNI specification, and what each verb requires."""

from __future__ import annotations

from typing import NamedTuple

from tailscale_cni import errors

from . import document

SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""All supported versions, oldest first. Versions before 0.3.0 have no chained plugins."""

NEWEST = SUPPORTED[-1]


class Verb(NamedTuple):
    """A verb, the version it appears in, and the variables it takes: SPEC section 2, "CNI operations"."""

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
    """The version to answer in, for the caller's ``cniVersion``. A configuration without one (None) means 0.1.0.

    Raises IncompatibleVersion for an unsupported version, InvalidConfiguration for another type than a string.
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
    """Check that the (supported) version has the verb. Raises VerbTooNew."""
    if SUPPORTED.index(version) < SUPPORTED.index(verb.since):
        raise errors.VerbTooNew(verb=verb.name, version=version, since=verb.since)


def report(given: object) -> dict[str, object]:
    """The answer to VERSION, in the caller's version if it is supported, else in the newest."""
    version = given if isinstance(given, str) and given in SUPPORTED else NEWEST
    return {"cniVersion": version, "supportedVersions": list(SUPPORTED)}
