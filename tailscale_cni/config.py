"""The host's configuration: the conflist entry and ``config.yaml`` → one frozen Config.

Both take the same keys; the entry's win. They are read once, checked once, and nothing else reads a path
constant or the environment. ``stateDir``, ``runDir`` and ``configFile`` are keys of the entry alone: they
say where everything else is.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import errors
from .tailnet import is_label, is_tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from .tailnet import Network

STATE_DIR = "/var/lib/tailscale-cni"
RUN_DIR = "/run/tailscale-cni"
CONFIG_FILE = "/etc/tailscale-cni/config.yaml"
KEY_FILE = "/etc/tailscale-cni/authkey"
ENTRY = "the conflist entry"
DEFAULT = "default"
LONGEST_RUN_DIR = 80
LONGEST_LITERAL = 40
"""Characters that a hostname's template may bring itself: the rest of the 63 is for what tells pods apart."""


class _Expected(Exception):
    """What a value should have been, and which part of it was not."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.path: list[str] = []
        self.value: Any = None

    def within(self, key: Any, value: Any) -> _Expected:
        """The same, of a part of a map."""
        self.value = self.value if self.path else value
        self.path.insert(0, str(key))
        return self


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
    # A TUN's owner is told by a call that takes a C int, and there are UID_COUNT of them.
    if not isinstance(value, int) or isinstance(value, bool) or not 1000 <= value <= 2**31 - UID_COUNT:
        raise _Expected(f"a user ID from 1000 to {2**31 - UID_COUNT}")
    return value


class _Unsupported(_Expected):
    """A word that another version may know."""


def _one_of(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in words:
            raise _Unsupported(" or ".join(words))
        return str(value)

    return parse


UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def _duration(shortest: float, longest: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
        number = text.rstrip("dhms")
        try:
            seconds = float(number) * UNITS[text[len(number) :] or "s"]
        except (KeyError, ValueError):
            seconds = -1.0
        if not shortest <= seconds <= longest:
            raise _Expected(f"a duration from {in_units(shortest)} to {in_units(longest)}, as in 10s, 10m")
        return seconds

    return parse


def in_units(seconds: float) -> str:
    """A duration as people write it: ``600.0`` → ``10m``."""
    fitting = (unit for unit, length in UNITS.items() if seconds and seconds % length == 0)
    unit = next(fitting, "ms" if seconds % 1 else "s")
    return f"{seconds / UNITS[unit]:g}{unit}"


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
    if not is_tag(_string(value)):
        raise _Expected("tags as in tag:k8s-pod")
    return str(value)


def _label(value: Any) -> str:
    if not isinstance(value, str) or not is_label(value):
        raise _Expected("a DNS label: 1 to 63 of a-z, 0-9 and -, not at an end")
    return value


def _template(value: Any) -> str:
    """Of a hostname: every part of it once at most, and one of those that tell pods apart."""
    literals, names = _string(value), ("workload", "namespace", "pod", "cluster")
    for name in names:
        literals = literals.replace(f"{{{name}}}", "", 1)
    tells_apart = "{workload}" in value or "{pod}" in value
    if not tells_apart or not re.fullmatch("[a-z0-9-]*", literals) or len(literals) > LONGEST_LITERAL:
        raise _Expected(
            "a DNS label with {workload} or {pod} in it, and {namespace} or {cluster} if you like, each once"
        )
    return str(value)


def _map(value: Any, of: str, key: Callable[[Any], str], row: Callable[[Any], Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Expected(f"a map of {of}")
    result = {}
    for name, item in value.items():
        try:
            result[key(name)] = row(item)
        except _Expected as e:
            raise e.within(name, item) from None
    return result


def _namespaces(value: Any) -> Mapping[str, Mapping[str, str]]:
    """Which annotations there are, and what they take, is policy's to know."""
    return _map(value, "namespaces", _label, lambda row: _map(row, "annotations", _string, _annotation))


def _annotation(value: Any) -> str:
    """YAML takes an unquoted true for a flag; Kubernetes would not have it, but there is one thing that it can mean."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        raise _Expected("annotations as strings, in quotes")
    return value


class Permission(NamedTuple):
    """What the pods of some namespaces may ask for: patterns. None: what a less specific row says."""

    tags: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None


ALWAYS = ("enabled", "required")
"""What a pod may ask for unless its namespace is given ``none``."""

WORDS = {"all": Permission(("*",), ("*",)), "none": Permission((), ())}


def _permissions(value: Any) -> Mapping[str, Permission]:
    return _map(value, "namespaces", lambda name: _pattern(name, r"[a-z0-9*?-]+", "namespaces"), _permission)


def _permission(value: Any) -> Permission:
    if isinstance(value, str) and value in WORDS:
        return WORDS[value]
    keys = Permission._fields
    if not isinstance(value, Mapping) or not set(value) <= set(keys):
        raise _Expected("'all', 'none', or a map of tags and features, both lists")
    given = {key: _list(_string)(patterns) for key, patterns in value.items()}
    tags, features = (given.get(key) for key in keys)
    for tag in tags or ():
        _pattern(tag, r"\*|tag:[A-Za-z0-9*?-]+", "tags")
    for feature in features or ():
        _pattern(feature, r"[a-z*?-]+", "features")
    return Permission(tags, None if features is None else tuple(dict.fromkeys((*ALWAYS, *features))))


def _pattern(value: Any, form: str, what: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(form, value):
        raise _Expected(f"names of {what}, with * and ? for any characters")
    return value


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


def _proxy(value: Any) -> str:
    """A proxy's URL, which may have a user name and a password."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(_string(value))
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.path in ("", "/")
        valid = valid and not (parts.query or parts.fragment)
        _ = parts.port
    except ValueError:
        valid = False
    if not valid or any(c.isspace() for c in value):
        raise _Expected("an http or https URL without a path, as in http://proxy.example.com:3128")
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
        "A file (0600) with a reusable, tagged auth key; of use where there is no credential of an API.",
    ),
    Setting(
        "oauthClientSecretFile",
        _path,
        "",
        "A file (0600) with the secret of a Tailscale OAuth client: each pod gets a key of its own.",
    ),
    Setting(
        "headscaleAPIKeyFile",
        _path,
        "",
        "A file (0600) with an API key of your Headscale: each pod gets a key of its own.",
    ),
    Setting(
        "headscaleUser",
        _string,
        "",
        "The Headscale user, by name or ID, that keys are made for; from Headscale 0.28 on, none is needed.",
    ),
    Setting(
        "apiURL",
        _url,
        "",
        "The control plane's API, where it is neither Tailscale's nor at `controlURL`.",
    ),
    Setting(
        "proxyURL",
        _proxy,
        "",
        "An HTTP or HTTPS proxy for the control plane and its API, and for the nodes' relays; not for loopback addresses.",
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
        "Namespaces that 'enroll: all' leaves out, and that the API is never asked about.",
    ),
    Setting(
        "kubeconfig",
        _path,
        "",
        "A file (0600) that gives access to the cluster's API: for namespaces, owners of pods, and identities that move with pods.",
    ),
    Setting(
        "identityStore",
        _one_of("auto", "host"),
        "auto",
        "Where the keys of nodes that last are kept: `auto`, in the cluster where `kubeconfig` allows it; `host`, on the host alone.",
    ),
    Setting(
        "namespaces",
        _namespaces,
        MappingProxyType({}),
        "By namespace: annotations that its pods have where they do not say otherwise.",
    ),
    Setting(
        "permissions",
        _permissions,
        MappingProxyType({}),
        "By namespace, or a pattern of it: which tags and features its pods may ask for.",
    ),
    Setting("tags", _list(_tag), ("tag:k8s-pod",), "The tags that a node gets if nobody asks for others."),
    Setting(
        "autoNamespaceTag",
        _flag,
        False,
        "Give every node the tag `tag:ns-` and its namespace, too.",
    ),
    Setting(
        "hostnameTemplate",
        _template,
        "{workload}",
        "A node's name: `{workload}`, `{pod}`, `{namespace}`, `{cluster}`.",
    ),
    Setting("clusterName", _label, "", "What `{cluster}` stands for in a node's name."),
    Setting(
        "ephemeral",
        _flag,
        True,
        "Whether nodes are forgotten when their pods end; those of StatefulSets are not, unless they say so.",
    ),
    Setting(
        "handoverWindow",
        _duration(0, UNITS["d"]),
        600.0,
        "How long a new pod may still take over the name of one that ends, as in a rolling update.",
    ),
    Setting(
        "onDeleted",
        _one_of("register", "stop"),
        "register",
        "What a node does that is deleted from the tailnet while its pod runs: register anew, or stop.",
    ),
    Setting(
        "authKeyTTL",
        _duration(1, 90 * UNITS["d"]),
        600.0,
        "How long an auth key lives that a control plane makes for a pod.",
    ),
    Setting(
        "underlay",
        _one_of("host", "pod"),
        "host",
        "Whose network namespace a node's encrypted socket is in: the `host`'s, or the `pod`'s.",
    ),
    Setting(
        "readyTimeout",
        _duration(0, UNITS["d"]),
        10.0,
        "How long ADD waits for the tailnet address before it lets the pod start.",
    ),
    Setting(
        "antiSpoofing",
        _flag,
        True,
        "Drop packets that forge tailnet addresses; needs nf_tables.",
    ),
    Setting(
        "clusterCIDRs",
        _list(_network),
        (),
        "The cluster's pod and service networks; needed only where they overlap the tailnet's, `100.64.0.0/10`.",
    ),
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
        "What keeps a node running: `systemd`, a unit; `session`, a process of ours; `auto`, the first where PID 1 is systemd.",
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


class Config(NamedTuple):
    """All that is configured on this host, checked. Durations are seconds, ``ports`` is (first, last)."""

    state_dir: str
    run_dir: str
    config_file: str
    control_url: str
    auth_key_file: str
    oauth_client_secret_file: str
    headscale_api_key_file: str
    headscale_user: str
    api_url: str
    proxy_url: str
    enroll: str
    exclude_namespaces: tuple[str, ...]
    kubeconfig: str
    identity_store: str
    namespaces: Mapping[str, Mapping[str, str]]
    permissions: Mapping[str, Permission]
    tags: tuple[str, ...]
    auto_namespace_tag: bool
    hostname_template: str
    cluster_name: str
    ephemeral: bool
    handover_window: float
    on_deleted: str
    auth_key_ttl: float
    underlay: str
    ready_timeout: float
    anti_spoofing: bool
    cluster_cidrs: tuple[Network, ...]
    ports: tuple[int, int]
    port_mapping: bool
    uid_base: int
    log_file: str
    launcher: str
    origin: Mapping[str, str]
    """Where each key's value is from: ``DEFAULT``, the file's path, or ``ENTRY``."""
    seen: list[int] | None
    """The file's fingerprint from before it was read: a change that came later is not in here."""

    @classmethod
    def load(cls, entry: Mapping[str, Any]) -> Config:
        """From a conflist entry, and the file that it names.

        Raises InvalidConfiguration, which names the key and where it stands.
        """
        own = {key: value for key, value in entry.items() if key not in PROTOCOL_KEYS and "/" not in key}
        roots = _parse(ROOTS, ENTRY, {row.key: own.pop(row.key) for row in ROOTS if row.key in own})
        defaults = {row.key: row.default for row in (*ROOTS, *SETTINGS)}
        file = (defaults | roots)["configFile"]
        seen = fingerprint(file)
        layers = (
            (DEFAULT, defaults),
            (file, _parse(SETTINGS, file, read(file))),
            (ENTRY, roots | _parse(SETTINGS, ENTRY, own)),
        )
        values = {key: value for _, layer in layers for key, value in layer.items()}
        origin = {key: where for where, layer in layers for key in layer}
        _check_template(values, origin)
        _check_credentials(values, origin)
        return cls(**{attribute(key): value for key, value in values.items()}, origin=origin, seen=seen)

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


def attribute(key: str) -> str:
    """``clusterCIDRs`` → ``cluster_cidrs``."""
    flat = key.replace("CIDRs", "Cidrs").replace("URL", "Url").replace("TTL", "Ttl").replace("API", "Api")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in flat)


def _parse(rows: tuple[Setting, ...], where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    table = {row.key: row for row in rows}
    values = {}
    for key, value in given.items():
        if key not in table:
            raise unknown(where, key, tuple(table))
        try:
            values[key] = table[key].parse(value)
        except _Unsupported as e:
            raise errors.UnsupportedField(
                where=where, key=key, value=errors.show(value), expected=e
            ) from None
        except _Expected as e:
            part = errors.show(".".join([key, *e.path])).strip("'")
            reason = f"{errors.show(_without_user(e.value if e.path else value))} is not what it takes"
            raise errors.InvalidConfiguration(
                where=where, key=part, reason=reason, expected=f"Expected {e}."
            ) from None
    return values


def _check_template(values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """A part of the name must be there."""
    if "{cluster}" in values["hostnameTemplate"] and not values["clusterName"]:
        raise errors.InvalidConfiguration(
            where=origin["hostnameTemplate"],
            key="hostnameTemplate",
            reason="it has {cluster}, and the cluster has no name",
            expected="Set clusterName.",
        )


def _check_credentials(values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """There is one control plane."""
    if values["oauthClientSecretFile"] and values["headscaleAPIKeyFile"]:
        raise errors.InvalidConfiguration(
            where=origin["headscaleAPIKeyFile"],
            key="headscaleAPIKeyFile",
            reason="there is oauthClientSecretFile, too",
            expected="Set the one for Tailscale, or the other for Headscale.",
        )


def plain(value: Any) -> Any:
    """A value as it could stand in the file: what JSON and YAML have, and durations as people write them."""
    match value:
        case Permission():
            word = next((word for word, row in WORDS.items() if row == value), None)
            return word or {key: plain(given) for key, given in value._asdict().items() if given is not None}
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case float():
            return in_units(value)
        case (int() as first, int() as last):
            return f"{first}-{last}"
        case tuple():
            return [plain(item) for item in value]
    return value if isinstance(value, bool | int) else _without_user(str(value))  # of a proxy


def _without_user(value: Any) -> Any:
    """Without the user name and password of a URL: errors are shown to pod authors, and the configuration to anybody."""
    head, at, rest = str(value).rpartition("@")
    scheme, colon, _ = head.partition("://")
    return f"{scheme}://…@{rest}" if at and colon else value


def unknown(where: str, key: object, known: tuple[str, ...], within: str = "") -> errors.InvalidConfiguration:
    """The error for a key that does not exist, which names the nearest one that does."""
    from difflib import get_close_matches

    nearest = get_close_matches(str(key), known, 1)
    return errors.InvalidConfiguration(
        where=f"{where}: {within}" if within else where,
        key=errors.show(key),
        reason="there is no such key",
        expected=f"Did you mean {nearest[0]}?" if nearest else f"There are {', '.join(known)}.",
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
    try:
        document = _yaml(text)
    except (RecursionError, ValueError) as e:
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


def _yaml(text: str) -> Any:
    """A YAML document. A key that is there twice is an error: YAML itself takes the last, and drops the other silently.

    Raises ValueError, RecursionError.
    """
    import yaml  # 15 ms: only where there is a file

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise ValueError(f"the key {twice} is there twice{node.start_mark}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - it is a safe one
    except yaml.YAMLError as e:
        raise ValueError(str(e)) from None


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
    """``stateDir/enroll.json``: what the door must know, for as long as the watched files are what they are.

    ``annotated`` is its word for "a pod that says nothing is no node", ``asked`` for "unless the API has said so of its
    namespace, which is not one of ``except``" (``state.namespaces``). Where the configuration enrols a namespace, it must go and ask.
    """
    watch = {path: fingerprint(path) for path in watched} | {config.config_file: config.seen}
    said = (layer.get("tailscale.com/enabled", "false") for layer in config.namespaces.values())
    if config.enroll == "annotated" and any(word != "false" for word in said):
        return {"version": 1, "enroll": "namespaces", "watch": watch}
    if config.enroll == "annotated" and config.kubeconfig:
        return {"version": 1, "enroll": "asked", "except": list(config.exclude_namespaces), "watch": watch}
    return {"version": 1, "enroll": config.enroll, "watch": watch}
