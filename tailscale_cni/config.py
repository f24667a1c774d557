"""The host's configuration: the conflist entry and ``config.yaml`` → one frozen Config.

Both take the same keys; the entry's win. They are read once, checked once, and nothing else reads a path
constant or the environment. ``stateDir``, ``runDir`` and ``configFile`` are keys of the entry alone: they
say where everything else is.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from . import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .tailnet import Network

STATE_DIR = "/var/lib/tailscale-cni"
RUN_DIR = "/run/tailscale-cni"
CONFIG_FILE = "/etc/tailscale-cni/config.yaml"
KEY_FILE = "/etc/tailscale-cni/authkey"
ENTRY = "the conflist entry"
LONGEST_RUN_DIR = 80


class _Expected(Exception):
    """What a value should have been."""


class Setting(NamedTuple):
    """A row of the configuration."""

    key: str
    parse: Callable[[Any], Any]
    default: Any
    help: str


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise _Expected("a string")
    return value


def _path(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not value.startswith("/")
        or not value.isprintable()
        or "/../" in f"{value}/"
    ):
        raise _Expected("an absolute path")
    return value


def _run_dir(value: Any) -> str:
    """Short enough for a socket below it: sockaddr_un has 108 bytes, of which the attachment's id and name take 24."""
    path = _path(value)
    if len(os.fsencode(path)) > LONGEST_RUN_DIR:
        raise _Expected(f"an absolute path of at most {LONGEST_RUN_DIR} bytes")
    return path


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Expected("true or false")
    return value


def _uid(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1000 <= value < 2**32 - 2**17:
        raise _Expected("a user ID from 1000 to 4294836223")
    return value


class _Unsupported(_Expected):
    """A word that another version may know."""


def _one_of(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in words:
            raise _Unsupported(" or ".join(words))
        return str(value)

    return parse


def _seconds(value: Any) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    number = text.rstrip("hms")
    try:
        seconds = float(number) * units[text[len(number) :] or "s"]
    except (KeyError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise _Expected("a duration up to 24h, as in 500ms, 10s, 10m")
    return seconds


def _list(row: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise _Expected("a list")
        return tuple(row(item) for item in value)

    return parse


def _network(value: Any) -> Network:
    try:
        return ipaddress.ip_network(_string(value))
    except ValueError:
        raise _Expected("networks as in 10.42.0.0/16") from None


def _tag(value: Any) -> str:
    name = _string(value).removeprefix("tag:")
    if name == value or not name[:1].isalpha() or not name.isascii() or not name.replace("-", "").isalnum():
        raise _Expected("tags as in tag:k8s-pod")
    return f"tag:{name}"


def _ports(value: Any) -> tuple[int, int]:
    first, dash, last = str(value).partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1024 <= int(first) <= int(last) <= 65535):
        raise _Expected("a range of UDP ports as in 21641-22640")
    return int(first), int(last)


def _url(value: Any) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(_string(value))
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        _ = parts.port
    except ValueError:
        valid = False
    if not valid or any(c.isspace() for c in value):
        raise _Expected("an http or https URL without a user name, as in https://headscale.example.com")
    return str(value).rstrip("/")


SETTINGS = (
    Setting(
        "controlURL",
        _url,
        "https://controlplane.tailscale.com",
        "The control plane: Tailscale's, or your Headscale's URL.",
    ),
    Setting(
        "authKeyFile",
        _path,
        KEY_FILE,
        "A file (0600) with a reusable, tagged auth key.",
    ),
    Setting(
        "enroll",
        _one_of("annotated", "all"),
        "annotated",
        "Which pods become nodes: those annotated, or all.",
    ),
    Setting(
        "excludeNamespaces",
        _list(_string),
        ("kube-system",),
        "Namespaces that 'enroll: all' leaves out.",
    ),
    Setting("tags", _list(_tag), ("tag:k8s-pod",), "The tags that a node gets."),
    Setting(
        "underlay",
        _one_of("host", "pod"),
        "host",
        "The network namespace of a node's encrypted socket.",
    ),
    Setting(
        "readyTimeout",
        _seconds,
        10.0,
        "How long ADD waits for the tailnet address before it lets the pod start.",
    ),
    Setting(
        "antiSpoofing",
        _flag,
        True,
        "Drop packets that forge tailnet addresses; needs nf_tables.",
    ),
    Setting("clusterCIDRs", _list(_network), (), "The cluster's pod and service networks."),
    Setting(
        "ports",
        _ports,
        (21641, 22640),
        "The UDP ports of the nodes of this host, one each.",
    ),
    Setting(
        "portMapping",
        _flag,
        False,
        "Let each node ask the router for a port (UPnP, NAT-PMP).",
    ),
    Setting(
        "uidBase",
        _uid,
        2_000_000_000,
        "The first user ID of the nodes' processes, one each.",
    ),
    Setting(
        "logFile",
        _path,
        "",
        "A file that gets one line per CNI call, besides standard error.",
    ),
    Setting(
        "launcher",
        _one_of("auto", "systemd", "session"),
        "auto",
        "What keeps a node running: systemd where it is PID 1.",
    ),
)

ROOTS = (
    Setting("stateDir", _path, STATE_DIR, "Where state is kept over a reboot."),
    Setting("runDir", _run_dir, RUN_DIR, "Where sockets are."),
    Setting("configFile", _path, CONFIG_FILE, "The host's configuration file."),
)

PROTOCOL_KEYS = frozenset(
    (
        "type",
        "name",
        "cniVersion",
        "capabilities",
        "prevResult",
        "runtimeConfig",
        "ipam",
        "dns",
        "args",
    )
)
"""What the specification and the runtime put into an entry beside the plugin's own keys."""

UID_COUNT = 65536
"""How many uids from ``uidBase`` on are ours."""


@dataclass(frozen=True)
class Config:
    """All that is configured on this host, checked. Durations are seconds, ``ports`` is (first, last)."""

    state_dir: str
    run_dir: str
    config_file: str
    control_url: str
    auth_key_file: str
    enroll: str
    exclude_namespaces: tuple[str, ...]
    tags: tuple[str, ...]
    underlay: str
    ready_timeout: float
    anti_spoofing: bool
    cluster_cidrs: tuple[Network, ...]
    ports: tuple[int, int]
    port_mapping: bool
    uid_base: int
    log_file: str
    launcher: str
    seen: list[int] | None
    """The file's fingerprint from before it was read: a change that came later is not in here."""

    @classmethod
    def load(cls, entry: Mapping[str, Any]) -> Config:
        """From a conflist entry, and the file that it names.

        Raises InvalidConfiguration, which names the key and where it stands.
        """
        own = {key: value for key, value in entry.items() if key not in PROTOCOL_KEYS and "/" not in key}
        values = {row.key: row.default for row in (*ROOTS, *SETTINGS)}
        values |= _parse(ROOTS, ENTRY, {row.key: own.pop(row.key) for row in ROOTS if row.key in own})
        file = values["configFile"]
        seen = fingerprint(file)
        values |= _parse(SETTINGS, file, read(file)) | _parse(SETTINGS, ENTRY, own)
        return cls(**{_attribute(key): value for key, value in values.items()}, seen=seen)

    @classmethod
    def for_cleanup(cls, entry: Mapping[str, Any]) -> Config:
        """The same, for verbs that a broken configuration must not keep from cleaning: the roots are what they need."""
        try:
            return cls.load(entry)
        except errors.Error:
            return cls.load(
                {row.key: entry[row.key] for row in ROOTS[:2] if row.key in entry}
                | {"configFile": "/dev/null"}
            )


def _attribute(key: str) -> str:
    """``clusterCIDRs`` → ``cluster_cidrs``."""
    flat = key.replace("CIDRs", "Cidrs").replace("URL", "Url")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in flat)


def _parse(rows: tuple[Setting, ...], where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    table = {row.key: row for row in rows}
    values = {}
    for key, value in given.items():
        if key not in table:
            raise _unknown(where, key, tuple(table))
        try:
            values[key] = table[key].parse(value)
        except _Unsupported as e:
            raise errors.UnsupportedField(
                where=where, key=key, value=errors.show(value), expected=e
            ) from None
        except _Expected as e:
            reason = f"{errors.show(_without_user(value))} is not what it takes"
            raise errors.InvalidConfiguration(
                where=where, key=key, reason=reason, expected=f"Expected {e}."
            ) from None
    return values


def _without_user(value: Any) -> Any:
    """A URL with a password in it is refused, and what is refused is shown to pod authors."""
    head, at, rest = str(value).rpartition("@")
    scheme, colon, _ = head.partition("://")
    return f"{scheme}://…@{rest}" if at and colon else value


def _unknown(where: str, key: object, known: tuple[str, ...]) -> errors.InvalidConfiguration:
    from difflib import get_close_matches

    nearest = get_close_matches(str(key), known, 1)
    expected = f"Did you mean {nearest[0]}?" if nearest else f"The keys are {', '.join(known)}."
    return errors.InvalidConfiguration(
        where=where,
        key=errors.show(key),
        reason="there is no such key",
        expected=expected,
    )


def read(path: str) -> Mapping[str, Any]:
    """The map in a configuration file; an empty one if there is none. Raises InvalidConfiguration, InputOutput."""
    try:
        with open(path, encoding="utf-8") as f:
            text = f.read()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as e:
        raise errors.InputOutput(
            what=f"the configuration {path} cannot be read", reason=e, path=path
        ) from None
    import yaml  # 15 ms: only where there is a file

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        reason = errors.show(" ".join(str(e).split()))
        raise errors.InvalidConfiguration(
            where=path, key="the file", reason=reason, expected="It must be YAML."
        ) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise errors.InvalidConfiguration(
            where=path,
            key="the file",
            reason="it is not a map",
            expected="Write key: value.",
        )
    return document


def fingerprint(path: str) -> list[int] | None:
    """What changes when a file changes, cheap to read: [mtime in ns, size, inode].

    None if it is not there.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def door_view(config: Config, *watched: str) -> dict[str, Any]:
    """``stateDir/enroll.json``: what the door must know, for as long as the watched files are what they are."""
    watch = {path: fingerprint(path) for path in watched} | {config.config_file: config.seen}
    return {"version": 1, "enroll": config.enroll, "watch": watch}
