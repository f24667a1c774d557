"""The table of the host's settings, and the frozen Config with their values."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import parsers as parse
from .parsers import UNITS, Permission

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..tailnet import Network

STATE_DIR = "/var/lib/tailscale-cni"
RUN_DIR = "/run/tailscale-cni"
CONFIG_FILE = "/etc/tailscale-cni/config.yaml"
KEY_FILE = "/etc/tailscale-cni/authkey"
ENTRY = "the conflist entry"
DEFAULT = "default"


class Setting(NamedTuple):
    """A row of the table: the key, its parser, its default, and its description for docs/configuration.md."""

    key: str
    parse: Callable[[Any], Any]
    default: Any
    help: str


SETTINGS = (
    Setting(
        "controlURL",
        parse.url,
        "https://controlplane.tailscale.com",
        "The control plane: Tailscale's, or your Headscale's URL.",
    ),
    Setting(
        "authKeyFile",
        parse.path,
        KEY_FILE,
        "A file (0600) with a reusable, tagged auth key; of use where there is no credential of an API.",
    ),
    Setting(
        "oauthClientSecretFile",
        parse.path,
        "",
        "A file (0600) with the secret of a Tailscale OAuth client: each pod gets a key of its own.",
    ),
    Setting(
        "headscaleAPIKeyFile",
        parse.path,
        "",
        "A file (0600) with an API key of your Headscale: each pod gets a key of its own.",
    ),
    Setting(
        "headscaleUser",
        parse.string,
        "",
        "The Headscale user, by name or ID, that keys are made for; from Headscale 0.28 on, none is needed.",
    ),
    Setting(
        "apiURL",
        parse.url,
        "",
        "The control plane's API, where it is neither Tailscale's nor at `controlURL`.",
    ),
    Setting(
        "enroll",
        parse.one_of("annotated", "all"),
        "annotated",
        "Which pods become nodes: those annotated, or all.",
    ),
    Setting(
        "excludeNamespaces",
        parse.list_of(parse.string),
        ("kube-system",),
        "Namespaces that 'enroll: all' leaves out, and that the API is never asked about.",
    ),
    Setting(
        "kubeconfig",
        parse.path,
        "",
        "A file (0600) that gives access to the cluster's API: for namespaces, owners of pods, and identities that move with pods.",
    ),
    Setting(
        "identityStore",
        parse.one_of("auto", "host"),
        "auto",
        "Where the keys of nodes that last are kept: `auto`, in the cluster where `kubeconfig` allows it; `host`, on the host alone.",
    ),
    Setting(
        "namespaces",
        parse.namespaces,
        MappingProxyType({}),
        "By namespace: annotations that its pods have where they do not say otherwise.",
    ),
    Setting(
        "permissions",
        parse.permissions,
        MappingProxyType({}),
        "By namespace, or a pattern of it: which tags and features its pods may ask for.",
    ),
    Setting(
        "tags",
        parse.list_of(parse.tag),
        ("tag:k8s-pod",),
        "The tags that a node gets if nobody asks for others.",
    ),
    Setting(
        "autoNamespaceTag",
        parse.flag,
        False,
        "Give every node the tag `tag:ns-` and its namespace, too.",
    ),
    Setting(
        "hostnameTemplate",
        parse.template,
        "{workload}",
        "A node's name: `{workload}`, `{pod}`, `{namespace}`, `{cluster}`.",
    ),
    Setting("clusterName", parse.label, "", "What `{cluster}` stands for in a node's name."),
    Setting(
        "ephemeral",
        parse.flag,
        True,
        "Whether nodes are forgotten when their pods end; those of StatefulSets are not, unless they say so.",
    ),
    Setting(
        "handoverWindow",
        parse.duration(0, UNITS["d"]),
        600.0,
        "How long a new pod may still take over the name of one that ends, as in a rolling update.",
    ),
    Setting(
        "onDeleted",
        parse.one_of("register", "stop"),
        "register",
        "What a node does that is deleted from the tailnet while its pod runs: register anew, or stop.",
    ),
    Setting(
        "authKeyTTL",
        parse.duration(1, 90 * UNITS["d"]),
        600.0,
        "How long an auth key lives that a control plane makes for a pod.",
    ),
    Setting(
        "underlay",
        parse.one_of("host", "pod"),
        "host",
        "Whose network namespace a node's encrypted socket is in: the `host`'s, or the `pod`'s.",
    ),
    Setting(
        "readyTimeout",
        parse.duration(0, UNITS["d"]),
        10.0,
        "How long ADD waits for the tailnet address before it lets the pod start.",
    ),
    Setting(
        "antiSpoofing",
        parse.flag,
        True,
        "Drop packets that forge tailnet addresses; needs nf_tables.",
    ),
    Setting(
        "clusterCIDRs",
        parse.list_of(parse.network),
        (),
        "The cluster's pod and service networks; needed only where they overlap the tailnet's, `100.64.0.0/10`.",
    ),
    Setting(
        "ports",
        parse.ports,
        (21641, 22640),
        "The UDP ports of the nodes of this host, one each.",
    ),
    Setting(
        "portMapping",
        parse.flag,
        False,
        "Let each node ask the router for a port (UPnP, NAT-PMP).",
    ),
    Setting(
        "uidBase",
        parse.uid,
        2_000_000_000,
        "The first user ID of the nodes' processes, one each.",
    ),
    Setting(
        "logFile",
        parse.path,
        "",
        "A file that gets one line per CNI call, besides standard error.",
    ),
    Setting(
        "launcher",
        parse.one_of("auto", "systemd", "session"),
        "auto",
        "What keeps a node running: `systemd`, a unit; `session`, a process of ours; `auto`, the first where PID 1 is systemd.",
    ),
)

ROOTS = (
    Setting("stateDir", parse.path, STATE_DIR, "Where state is kept over a reboot."),
    Setting("runDir", parse.run_dir, RUN_DIR, "Where sockets are."),
    Setting("configFile", parse.path, CONFIG_FILE, "The host's configuration file."),
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
"""The keys that the specification and the runtime add to an entry."""


class Config(NamedTuple):
    """The validated configuration of this host. Durations are in seconds; ``ports`` is (first, last)."""

    state_dir: str
    run_dir: str
    config_file: str
    control_url: str
    auth_key_file: str
    oauth_client_secret_file: str
    headscale_api_key_file: str
    headscale_user: str
    api_url: str
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
    """The source of each key's value: ``DEFAULT``, the file's path, or ``ENTRY``."""
    seen: list[int] | None
    """The fingerprint of the configuration file, taken before it was read. Later changes of the file are not in this Config."""


def attribute(key: str) -> str:
    """The attribute of a Config that has a key's value: ``clusterCIDRs`` → ``cluster_cidrs``."""
    flat = key.replace("CIDRs", "Cidrs").replace("URL", "Url").replace("TTL", "Ttl").replace("API", "Api")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in flat)
