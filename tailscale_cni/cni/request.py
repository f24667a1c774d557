"""What the runtime asks: environment and standard input → one frozen Request, or an error that says why not.

Everything here comes from outside. What leaves this module has the shape that it says, so that a name from it
may be part of a path. SPEC section 2, "Parameters"; runtimeConfig's keys and CNI_ARGS are CONVENTIONS.md's
and containerd's.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tailscale_cni import errors

from . import document, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
"""The capability through which containerd and CRI-O pass a pod's annotations."""

VALID_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""The specification's key, and the one that libcni sends beside it."""

NAME_LIMIT = 200
"""How long a container ID or a network name may be: each becomes part of a file name (255 bytes)."""

IFNAME_LIMIT = 15
"""IFNAMSIZ, without its NUL."""

_KNOWN_ARGS = frozenset(
    ("IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID")
)
_NAME_MARKS = str.maketrans("_.-", "000")
_TRUTH = {"1": True, "true": True, "0": False, "false": False}


class Pod(NamedTuple):
    """The pod that a container is the sandbox of. Namespace and name are DNS names, never a path."""

    namespace: str
    name: str
    uid: str | None

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class AttachmentKey(NamedTuple):
    """What an attachment is known by, within its network."""

    container_id: str
    ifname: str


def _unheard(_: str) -> None:
    """Nobody listens."""


class Request(NamedTuple):
    """One call of a runtime, checked.

    ``container_id`` and ``ifname`` are empty for the verbs that concern no container (GC, STATUS).
    ``annotations`` is None if the runtime did not pass any map, ``valid_attachments`` if the key is absent.
    ``config`` is the whole conflist entry as it was sent. Do not change what hangs on it.
    """

    command: str
    version: str
    network: str
    config: Mapping[str, Any]
    prev_result: Mapping[str, Any] | None
    annotations: Mapping[str, str] | None
    valid_attachments: tuple[AttachmentKey, ...] | None
    container_id: str = ""
    ifname: str = ""
    netns: str | None = None
    args: Mapping[str, str] = MappingProxyType({})
    pod: Pod | None = None
    path: tuple[str, ...] = ()
    warn: Callable[[str], None] = _unheard
    """Takes a sentence for the call's log line: what went wrong, and fails nothing."""


class _Invalid(Exception):  # a reason on its way to becoming a BadEnvironment
    """What is wrong with a value."""


def parse(environ: Mapping[str, str], data: bytes) -> Request:
    """The request in ``environ`` (CNI_*) and ``data`` (a JSON object), for any verb but VERSION.

    Raises, in this order: BadEnvironment, Undecodable, IncompatibleVersion or VerbTooNew,
    InvalidConfiguration, MissingPrevResult.
    """
    verb = find_verb(environ)
    values = _environment(environ, verb)
    config = document.decode(data)
    version = versions.negotiate(config.get("cniVersion"))
    versions.check_verb(verb, version)
    prev_result = _object(config, "prevResult")
    request = Request(
        command=verb.name,
        version=version,
        network=_network(config),
        config=config,
        prev_result=prev_result,
        annotations=_annotations(config),
        valid_attachments=_valid_attachments(config),
        **values,
    )
    if verb.needs_prev_result and prev_result is None:
        raise errors.MissingPrevResult
    return request


def find_verb(environ: Mapping[str, str]) -> versions.Verb:
    """The verb that CNI_COMMAND names. Raises BadEnvironment."""
    command = environ.get("CNI_COMMAND", "")
    if command not in versions.VERBS:
        wrong = (
            f"{errors.show(command)} is not one of {', '.join(versions.VERBS)}" if command else "is not set"
        )
        raise errors.BadEnvironment(variables="CNI_COMMAND", reasons=f"CNI_COMMAND: {wrong}")
    return versions.VERBS[command]


def check_name(name: str) -> str:
    """A container ID or a network name: SPEC section 2, and short enough to be part of a file name."""
    if not _is_name(name):
        raise _Invalid(
            f"{errors.show(name)} must begin with a letter or a digit and go on with those, '_', '.' and '-'"
        )
    if len(name) > NAME_LIMIT:
        raise _Invalid(f"it is longer than {NAME_LIMIT} characters")
    return name


def _is_name(text: str) -> bool:
    """Letters, digits, '_', '.' and '-', the first a letter or a digit. Not by re, which takes longer to compile than all the rest."""
    return text[:1].isalnum() and text.isascii() and text.translate(_NAME_MARKS).isalnum()


def _is_label(text: str) -> bool:
    """A DNS label, of any length: RFC 1123, in lower case."""
    ends_well = not (text.startswith("-") or text.endswith("-"))
    return text.isascii() and text == text.lower() and text.replace("-", "0").isalnum() and ends_well


def check_ifname(name: str) -> str:
    """An interface's name: what the kernel takes (dev_valid_name), and nothing that cannot be shown."""
    if name in ("", ".", "..") or not name.isprintable() or any(c in "/:" or c.isspace() for c in name):
        raise _Invalid(f"{errors.show(name)} is no name that an interface can have")
    if len(name.encode()) > IFNAME_LIMIT:
        raise _Invalid(f"{errors.show(name)} is longer than {IFNAME_LIMIT} bytes")
    return name


def _environment(environ: Mapping[str, str], verb: versions.Verb) -> dict[str, Any]:
    """The fields of a Request that the environment gives. Raises one BadEnvironment for all that are bad."""
    values: dict[str, Any] = {}
    bad: dict[str, str] = {}
    for name in verb.required + verb.optional:
        text = environ.get(name, "")
        if not text:
            if name in verb.required:
                bad[name] = "is not set"
            continue
        try:
            values |= _VARIABLES[name](text)
        except _Invalid as e:
            bad[name] = str(e)
    if bad:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in bad.items())
        raise errors.BadEnvironment(variables=", ".join(bad), reasons=reasons)
    return values


def _netns(path: str) -> str:
    if not path.startswith("/") or not path.isprintable() or len(path) > 4095 or ".." in path.split("/"):
        raise _Invalid(f"{errors.show(path)} is not an absolute path")
    return path


def _path(text: str) -> tuple[str, ...]:
    if not text.isprintable():
        raise _Invalid(f"{errors.show(text)} has characters that no path should have")
    return tuple(part for part in text.split(":") if part)


def _args(text: str) -> dict[str, Any]:
    """``K=V;K=V``, as libcni's LoadArgs takes it, but a key may not be there twice: one call has one pod."""
    args: dict[str, str] = {}
    for pair in text.split(";"):
        key, equals, value = pair.partition("=")
        if not (key and equals and pair.isprintable()) or "=" in value:
            raise _Invalid(f"{errors.show(pair)} is not KEY=VALUE")
        if key in args:
            raise _Invalid(f"{errors.show(key)} is there twice")
        args[key] = value
    ignore_unknown = args.get("IgnoreUnknown", "false").lower()
    if ignore_unknown not in _TRUTH:
        raise _Invalid(f"IgnoreUnknown is {errors.show(ignore_unknown)}, neither true nor false")
    unknown = [key for key in args if key not in _KNOWN_ARGS]
    if unknown and not _TRUTH[ignore_unknown]:
        raise _Invalid(f"{errors.show(', '.join(unknown))} is not known, and IgnoreUnknown is not set")
    return {"args": args, "pod": _pod(args)}


def _pod(args: Mapping[str, str]) -> Pod | None:
    namespace, name, uid = (args.get(f"K8S_POD_{key}", "") for key in ("NAMESPACE", "NAME", "UID"))
    if not namespace and not name:
        return None
    if not _is_label(namespace) or len(namespace) > 63:
        raise _Invalid(f"K8S_POD_NAMESPACE {errors.show(namespace)} is not a namespace")
    if not all(_is_label(label) for label in name.split(".")) or len(name) > 253:
        raise _Invalid(f"K8S_POD_NAME {errors.show(name)} is not a pod's name")
    if uid and (not _is_name(uid) or len(uid) > NAME_LIMIT):
        raise _Invalid(f"K8S_POD_UID {errors.show(uid)} is not a UID")
    return Pod(namespace, name, uid or None)


_VARIABLES: dict[str, Callable[[str], dict[str, Any]]] = {
    "CNI_CONTAINERID": lambda text: {"container_id": check_name(text)},
    "CNI_NETNS": lambda text: {"netns": _netns(text)},
    "CNI_IFNAME": lambda text: {"ifname": check_ifname(text)},
    "CNI_ARGS": _args,
    "CNI_PATH": lambda text: {"path": _path(text)},
}


def _network(config: Mapping[str, Any]) -> str:
    name = config.get("name")
    if name is None:
        _invalid("name", "it is missing", "Every network has a name.")
    if not isinstance(name, str):
        _invalid("name", f"it is {document.kind(name)}", "Expected a string.")
    try:
        return check_name(name)
    except _Invalid as e:
        _invalid("name", str(e), "Give the network another name.")


def _annotations(config: Mapping[str, Any]) -> Mapping[str, str] | None:
    """The pod's annotations. A runtime sends null for a pod that has none: that is not nothing."""
    runtime_config = _object(config, "runtimeConfig") or {}
    if ANNOTATIONS not in runtime_config:
        return None
    annotations = _object(runtime_config, ANNOTATIONS, "runtimeConfig.") or {}
    for key, value in annotations.items():
        if not isinstance(value, str):
            _invalid(
                f"runtimeConfig.{ANNOTATIONS}",
                f"{errors.show(key)} is {document.kind(value)}",
                "Expected strings.",
            )
    return annotations


def _valid_attachments(config: Mapping[str, Any]) -> tuple[AttachmentKey, ...] | None:
    """Which attachments GC must keep. One that is not understood is an error, or it would be removed."""
    key = next((key for key in VALID_ATTACHMENTS if key in config), None)
    if key is None:
        return None
    rows = config[key]
    if rows is not None and not isinstance(rows, list):
        _invalid(key, f"it is {document.kind(rows)}", "Expected a list.")
    return tuple(_attachment_key(key, row) for row in rows or ())


def _attachment_key(key: str, row: object) -> AttachmentKey:
    pair = (row.get("containerID"), row.get("ifname")) if isinstance(row, dict) else ()
    names = [name for name in pair if isinstance(name, str) and name]
    if len(names) != 2:
        _invalid(key, "an entry has no containerID or no ifname", "Expected both, as strings.")
    return AttachmentKey(*names)


def _object(config: Mapping[str, Any], key: str, prefix: str = "") -> Mapping[str, Any] | None:
    """The object at ``key``; None if it is absent or null."""
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        _invalid(prefix + key, f"it is {document.kind(value)}", "Expected an object.")
    return value


def _invalid(key: str, reason: str, expected: str) -> NoReturn:
    raise errors.InvalidConfiguration(
        where="the network configuration", key=key, reason=reason, expected=expected
    ) from None
