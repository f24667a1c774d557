"""Install this file as a CNI plugin of this host, chained after the primary one.

Binary first, list last: whenever this is cut short, the cluster has the network that it had. Running it
again changes nothing but what differs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import archive, artefact, config, conflist, errors
from ..control import credential, headscale, select, static, tailscale
from ..kube import kubeconfig
from ..state import files
from ..state.installation import Installation
from ..verbs import earlier, joining, upkeep, wish
from . import add_roots, layout
from .layout import BINARY
from .upgrade import upgrade_all

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

SHOWN = 20
"""Pods that are named."""


class Credential(NamedTuple):
    """A secret that makes keys, or is one: a row of the options, and of ``config.yaml``."""

    setting: str
    name: str
    """Of the file that it is copied to, beside the configuration."""
    what: str
    check: Callable[[str, str], None]
    """Raises NoAuthKey for a secret of another kind, given with where it is from."""

    @property
    def option(self) -> str:
        """``oauthClientSecretFile`` → ``--oauth-client-secret-file``."""
        return f"--{self.attribute.replace('_', '-')}"

    @property
    def attribute(self) -> str:
        """The option's value among the arguments, and the setting's in a Config."""
        return config.attribute(self.setting)


CREDENTIALS = (
    Credential("authKeyFile", os.path.basename(config.KEY_FILE), static.WHAT, lambda _, __: None),
    Credential("oauthClientSecretFile", "oauth-client-secret", tailscale.WHAT, tailscale.check),
    Credential("headscaleAPIKeyFile", "headscale-api-key", headscale.WHAT, headscale.check),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_roots(parser)
    parser.add_argument(
        "--root", default="", metavar="DIR", help="the host's root directory, from within a container"
    )
    parser.add_argument(
        "--cni-conf-dir", metavar="DIR", help="where the runtime reads network lists (default: found)"
    )
    parser.add_argument(
        "--cni-bin-dir", metavar="DIR", help="where the runtime finds plugins (default: found)"
    )
    parser.add_argument(
        "--config-file",
        default=config.CONFIG_FILE,
        metavar="FILE",
        help="the configuration (default: %(default)s)",
    )
    parser.add_argument(
        "--control-url", metavar="URL", help="a control plane other than Tailscale's, as your Headscale's URL"
    )
    parser.add_argument(
        "--api-url", metavar="URL", help="the control plane's API, where it is neither Tailscale's nor there"
    )
    parser.add_argument(
        "--headscale-user", metavar="USER", help="whom keys are made for; needed before Headscale 0.28"
    )
    parser.add_argument(
        "--kubeconfig",
        metavar="FILE",
        help="what gives access to the cluster's API (0600); it is used where it is, and not copied",
    )
    parser.add_argument(
        "--no-upgrade",
        action="store_true",
        help="leave the nodes that run with the version that they have ('upgrade' does it later)",
    )
    secrets = parser.add_mutually_exclusive_group()
    for row in CREDENTIALS:
        about = f"a file (0600) with {row.what}, or - for standard input; it is copied"
        secrets.add_argument(row.option, metavar="FILE", help=about)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Put everything in place, and say what was put where."""
    root, found = arguments.root.rstrip("/"), layout.find(arguments.root.rstrip("/"))
    conf_dir, bin_dir = arguments.cni_conf_dir or found.conf_dir, arguments.cni_bin_dir or found.bin_dir
    _say(
        f"network lists: {conf_dir}, plugins: {bin_dir} ({'given' if arguments.cni_conf_dir else found.why})"
    )
    primary = conflist.find_primary(root + conf_dir)
    _say(f"primary network: {primary.document['name']} ({primary.path})")
    settings, secret = _settings(arguments, root), _secret(arguments)
    joining.make_roots(root + arguments.state_dir, root + arguments.run_dir)
    _install_secret(arguments, root, secret)
    _install_settings(root + arguments.config_file, settings)
    entry = _entry(arguments)
    host = wish.load(entry | {"configFile": root + arguments.config_file})
    _install_binary(root, bin_dir)
    installation = Installation(conf_dir, bin_dir, entry)
    if Installation.load(root + arguments.state_dir) != installation:
        installation.save(root + arguments.state_dir)
    if not root:
        artefact.worker_binary()  # unpacks this build: now, and not while the first pod waits
    files.put(f"{root}{conf_dir}/{conflist.NAME}", conflist.derive(primary, entry), 0o644)
    if not root:
        upkeep.keep_in_step(host)
    _say(f'{conf_dir}/{conflist.NAME} is in place: new pods with tailscale.com/enabled: "true" become nodes')
    _name_earlier_pods(host, root)
    _warn(host, root)
    if not (root or arguments.no_upgrade):
        return upgrade_all(arguments.state_dir)
    if not root:
        archive.prune(arguments.state_dir)
    return 0


def _entry(arguments: argparse.Namespace) -> dict[str, Any]:
    """Our entry, with only what differs from the defaults."""
    roots = {
        "stateDir": arguments.state_dir,
        "runDir": arguments.run_dir,
        "configFile": arguments.config_file,
    }
    return conflist.entry(
        **{row.key: roots[row.key] for row in config.ROOTS if roots[row.key] != row.default}
    )


def _settings(arguments: argparse.Namespace, root: str) -> dict[str, Any]:
    """What the options ask of ``config.yaml``. Raises InvalidConfiguration for what cannot be, alone or beside what is there."""
    words = (
        ("controlURL", arguments.control_url),
        ("apiURL", arguments.api_url),
        ("headscaleUser", arguments.headscale_user),
        ("kubeconfig", arguments.kubeconfig),
    )
    settings = {key: value for key, value in words if value}
    row = _given(arguments)
    if row and _place(arguments, row) != config.KEY_FILE:
        settings[row.setting] = _place(arguments, row)
    config.Config.load({"configFile": root + arguments.config_file, **settings})
    if arguments.kubeconfig:
        kubeconfig.load(arguments.kubeconfig, root)
    return settings


def _given(arguments: argparse.Namespace) -> Credential | None:
    return next((row for row in CREDENTIALS if getattr(arguments, row.attribute)), None)


def _place(arguments: argparse.Namespace, row: Credential) -> str:
    """Where its secret will be, as the host sees it."""
    return f"{os.path.dirname(arguments.config_file)}/{row.name}"


def _secret(arguments: argparse.Namespace) -> str:
    """What was given; empty for nothing. Raises NoAuthKey."""
    row = _given(arguments)
    if row is None:
        return ""
    path = getattr(arguments, row.attribute)
    if path == "-":
        path = "standard input"
        secret = credential.parse(sys.stdin.buffer.read(credential.MAX_SECRET), path, row.what)
    else:
        secret = credential.read(path, row.what, row.option)
    row.check(secret, path)
    return secret


def _install_secret(arguments: argparse.Namespace, root: str, secret: str) -> None:
    row = _given(arguments)
    if row and files.put(root + _place(arguments, row), f"{secret}\n".encode(), 0o600):
        _say(f"{row.what}: {_place(arguments, row)}")


def _install_settings(path: str, settings: dict[str, Any]) -> None:
    """Only what was asked for and is not so already: the file is the admin's."""
    import yaml

    there = config.read(path)
    missing = {key: value for key, value in settings.items() if there.get(key) != value}
    if not missing:
        return
    clash = next((key for key in missing if key in there), None)
    if clash:
        reason = f"it is {errors.show(there[clash])}, and {errors.show(missing[clash])} was asked for"
        raise errors.InvalidConfiguration(
            where=path, key=clash, reason=reason, expected="Change it there, or leave the option out."
        )
    text = ""
    if there:
        with open(path, encoding="utf-8") as f:
            text = f.read().rstrip("\n") + "\n"
    files.put(path, (text + yaml.safe_dump(missing, sort_keys=True)).encode(), 0o644)
    _say(f"configuration: {path}")


def _install_binary(root: str, bin_dir: str) -> None:
    """By rename: the old file may be running, and nobody may see half of the new one."""
    python = layout.find_python(root)
    if files.put(f"{root}{bin_dir}/{BINARY}", archive.fitted(Path(artefact.executable()), python), 0o755):
        _say(f"plugin: {bin_dir}/{BINARY}, started by {python or 'the first Python that it finds'}")


def _name_earlier_pods(host: config.Config, root: str) -> None:
    """The runtime calls nobody for a pod that runs already."""
    waiting = earlier.waiting(host, root)
    if waiting:
        more = f" and {len(waiting) - SHOWN} more" if len(waiting) > SHOWN else ""
        _say(f"these pods become nodes when they are started again: {', '.join(waiting[:SHOWN])}{more}")


def _warn(host: config.Config, root: str) -> None:
    """What will keep the first pod from becoming a node."""
    static_key, *others = CREDENTIALS
    row = (
        static_key if select.is_static(host) else next(row for row in others if getattr(host, row.attribute))
    )
    path = root + getattr(host, row.attribute)
    try:
        row.check(credential.read(path, row.what, row.setting), path)
    except errors.NoAuthKey as e:
        _say(f"warning: {e}. {e.advice}")
    if not os.path.exists("/dev/net/tun"):
        _say("warning: /dev/net/tun is not there; load the kernel's module: modprobe tun")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
