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
        "The URL of the control plane: Tailscale's, or your Headscale's.",
    ),
    Setting(
        "authKeyFile",
        parse.path,
        KEY_FILE,
        "A file (0600) with a reusable, tagged auth key. Used only without an OAuth client or a Headscale API key.",
    ),
    Setting(
        "oauthClientSecretFile",
        parse.path,
        "",
        "A file (0600) with the secret of a Tailscale OAuth client. Each pod gets its own auth key.",
    ),
    Setting(
        "headscaleAPIKeyFile",
        parse.path,
        "",
        "A file (0600) with a Headscale API key. Each pod gets its own auth key.",
    ),
    Setting(
        "headscaleUser",
        parse.string,
        "",
        "The Headscale user, by name or ID, for whom auth keys are created. Not needed since Headscale 0.28.",
    ),
    Setting(
        "apiURL",
        parse.url,
        "",
        "The URL of the control plane's API, if it is neither Tailscale's nor `controlURL`.",
    ),
    Setting(
        "proxyURL",
        parse.proxy,
        "",
        "An HTTP or HTTPS proxy for the control plane, its API and the nodes' relays. It is not used for loopback addresses.",
    ),
    Setting(
        "enroll",
        parse.one_of("annotated", "all"),
        "annotated",
        "Which pods become nodes: `annotated` pods only, or `all`.",
    ),
    Setting(
        "excludeNamespaces",
        parse.list_of(parse.string),
        ("kube-system",),
        "Namespaces that `enroll: all` skips, and for which the cluster's API is never queried.",
    ),
    Setting(
        "kubeconfig",
        parse.path,
        "",
        "A kubeconfig (0600) for the cluster's API: annotations of namespaces, owners of pods, identities that move between hosts.",
    ),
    Setting(
        "identityStore",
        parse.one_of("auto", "host"),
        "auto",
        "Where identities of non-ephemeral nodes are stored: `auto`, in the cluster if `kubeconfig` permits it; `host`, on the host only.",
    ),
    Setting(
        "namespaces",
        parse.namespaces,
        MappingProxyType({}),
        "Per namespace: annotations that its pods have by default.",
    ),
    Setting(
        "permissions",
        parse.permissions,
        MappingProxyType({}),
        "Per namespace or namespace pattern: the tags and features that its pods may request.",
    ),
    Setting(
        "tags",
        parse.list_of(parse.tag),
        ("tag:k8s-pod",),
        "The default tags of a node.",
    ),
    Setting(
        "autoNamespaceTag",
        parse.flag,
        False,
        "Also give every node the tag `tag:ns-NAMESPACE`.",
    ),
    Setting(
        "hostnameTemplate",
        parse.template,
        "{workload}",
        "The template for hostnames. Variables: `{workload}`, `{pod}`, `{namespace}`, `{cluster}`.",
    ),
    Setting("clusterName", parse.label, "", "The value of `{cluster}` in `hostnameTemplate`."),
    Setting(
        "ephemeral",
        parse.flag,
        True,
        "Whether a node is deleted when its pod ends. StatefulSet pods are not ephemeral unless they are annotated so.",
    ),
    Setting(
        "handoverWindow",
        parse.duration(0, UNITS["d"]),
        600.0,
        "How long after its start a pod can take over the hostname of a pod that ends, as in a rolling update.",
    ),
    Setting(
        "onDeleted",
        parse.one_of("register", "stop"),
        "register",
        "What to do when a running pod's node is deleted from the tailnet: `register` it again, or `stop`.",
    ),
    Setting(
        "authKeyTTL",
        parse.duration(1, 90 * UNITS["d"]),
        600.0,
        "The lifetime of an auth key that is created for a pod.",
    ),
    Setting(
        "underlay",
        parse.one_of("host", "pod"),
        "host",
        "The network namespace of a node's encrypted UDP socket: `host` or `pod`.",
    ),
    Setting(
        "readyTimeout",
        parse.duration(0, UNITS["d"]),
        10.0,
        "How long ADD waits for the tailnet address before the pod starts without it.",
    ),
    Setting(
        "antiSpoofing",
        parse.flag,
        True,
        "Drop packets with forged tailnet addresses. Needs nf_tables.",
    ),
    Setting(
        "clusterCIDRs",
        parse.list_of(parse.network),
        (),
        "The cluster's pod and service networks. Needed only if they overlap the tailnet's range, `100.64.0.0/10`.",
    ),
    Setting(
        "ports",
        parse.ports,
        (21641, 22640),
        "The range of UDP ports for this host's nodes, one port per node.",
    ),
    Setting(
        "portMapping",
        parse.flag,
        False,
        "Let each node request a port mapping from the router (UPnP, NAT-PMP).",
    ),
    Setting(
        "uidBase",
        parse.uid,
        2_000_000_000,
        "The first user ID for the workers. Each worker has its own user ID.",
    ),
    Setting(
        "logFile",
        parse.path,
        "",
        "A log file with one line per CNI call, in addition to standard error.",
    ),
    Setting(
        "launcher",
        parse.one_of("auto", "systemd", "session"),
        "auto",
        "What runs the supervisors: `systemd`, a unit per node; `session`, a process per node; `auto`, `systemd` if it is PID 1.",
    ),
)

ROOTS = (
    Setting("stateDir", parse.path, STATE_DIR, "The directory for persistent state."),
    Setting("runDir", parse.run_dir, RUN_DIR, "The directory for sockets."),
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
    """The source of each key's value: ``DEFAULT``, the file's path, or ``ENTRY``."""
    seen: list[int] | None
    """The fingerprint of the configuration file, taken before it was read. Later changes of the file are not in this Config."""


def attribute(key: str) -> str:
    """The attribute of a Config that has a key's value: ``clusterCIDRs`` → ``cluster_cidrs``."""
    flat = key.replace("CIDRs", "Cidrs").replace("URL", "Url").replace("TTL", "Ttl").replace("API", "Api")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in flat)
