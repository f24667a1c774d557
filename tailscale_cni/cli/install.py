"""Install this file as a CNI plugin on this host, chained after the primary one.

The network list is written last: if the command is interrupted before, the cluster's network is unchanged. The command is idempotent.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import config, errors
from ..build import artefact, binaries, cache, interpreter
from ..control import credential, headscale, select, static, tailscale
from ..install import conflist, detect, keep_in_step, preflight, unenrolled
from ..install.detect import BINARY
from ..install.record import Installation
from ..kube import kubeconfig
from ..node import resolve
from ..state import files, roots
from . import add_roots
from .upgrade import upgrade_all

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

SHOWN = 20
"""The number of pods that are named."""


class Credential(NamedTuple):
    """An auth key, or an API credential that mints auth keys: its option, and its setting in ``config.yaml``."""

    setting: str
    name: str
    """The name of the file that it is copied to, in the configuration's directory."""
    what: str
    check: Callable[[str, str], None]
    """Takes the secret and its source. Raises NoAuthKey for a secret of another kind."""

    @property
    def option(self) -> str:
        """``oauthClientSecretFile`` → ``--oauth-client-secret-file``."""
        return f"--{self.attribute.replace('_', '-')}"

    @property
    def attribute(self) -> str:
        """The attribute with the value, of the parsed arguments and of a Config."""
        return config.attribute(self.setting)


CREDENTIALS = (
    Credential("authKeyFile", os.path.basename(config.KEY_FILE), static.WHAT, lambda _, __: None),
    Credential("oauthClientSecretFile", "oauth-client-secret", tailscale.WHAT, tailscale.check),
    Credential("headscaleAPIKeyFile", "headscale-api-key", headscale.WHAT, headscale.check),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_roots(parser)
    parser.add_argument(
        "--root",
        default="",
        metavar="DIR",
        help="the path of the host's root directory, for use in a container",
    )
    parser.add_argument(
        "--cni-conf-dir", metavar="DIR", help="the runtime's directory of network lists (default: detected)"
    )
    parser.add_argument(
        "--cni-bin-dir", metavar="DIR", help="the runtime's directory of plugins (default: detected)"
    )
    parser.add_argument(
        "--config-file",
        default=config.CONFIG_FILE,
        metavar="FILE",
        help="the configuration file (default: %(default)s)",
    )
    parser.add_argument(
        "--no-upgrade",
        action="store_true",
        help="do not upgrade running nodes; 'upgrade' does this later",
    )
    _add_settings(parser)
    parser.set_defaults(run=run)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that become settings of ``config.yaml``, or secrets beside it."""
    parser.add_argument(
        "--control-url",
        metavar="URL",
        help="the URL of a control plane other than Tailscale's, such as your Headscale",
    )
    parser.add_argument(
        "--api-url",
        metavar="URL",
        help="the URL of the control plane's API, if it is neither Tailscale's nor the control URL",
    )
    parser.add_argument(
        "--headscale-user",
        metavar="USER",
        help="the Headscale user for whom auth keys are created; required before Headscale 0.28",
    )
    parser.add_argument(
        "--kubeconfig",
        metavar="FILE",
        help="a kubeconfig (0600) for the cluster's API; the file is used in place, not copied",
    )
    secrets = parser.add_mutually_exclusive_group()
    for row in CREDENTIALS:
        about = f"a file (0600) with {row.what}, or - for standard input; the secret is copied"
        secrets.add_argument(row.option, metavar="FILE", help=about)


def run(arguments: argparse.Namespace) -> int:
    """Install everything, and print what was installed where."""
    root, found = arguments.root.rstrip("/"), detect.detect_layout(arguments.root.rstrip("/"))
    conf_dir, bin_dir = arguments.cni_conf_dir or found.conf_dir, arguments.cni_bin_dir or found.bin_dir
    _say(
        f"network lists: {conf_dir}, plugins: {bin_dir} (source: {'--cni-conf-dir' if arguments.cni_conf_dir else found.why})"
    )
    primary = conflist.find_primary(root + conf_dir)
    _say(f"primary network: {primary.document['name']} ({primary.path})")
    settings, secret = _settings(arguments, root), _secret(arguments)
    roots.make_roots(root + arguments.state_dir, root + arguments.run_dir)
    _install_secret(arguments, root, secret)
    _install_settings(root + arguments.config_file, settings)
    entry = _entry(arguments)
    host = resolve.load(entry | {"configFile": root + arguments.config_file})
    _install_binary(root, bin_dir)
    _record(root + arguments.state_dir, Installation(conf_dir, bin_dir, entry))
    if not root:
        binaries.worker_binary()  # unpack this build now, so that the first pod need not wait for it
    files.put(f"{root}{conf_dir}/{conflist.NAME}", conflist.derive(primary, entry), 0o644)
    if not root:
        keep_in_step.keep_in_step(host)
    _say(
        f'network list: {conf_dir}/{conflist.NAME}. New pods with tailscale.com/enabled: "true" become nodes'
    )
    _name_earlier_pods(host, root)
    _warn(host, root)
    if not (root or arguments.no_upgrade):
        return upgrade_all(arguments.state_dir)
    if not root:
        cache.prune(arguments.state_dir)
    return 0


def _record(state_dir: str, installation: Installation) -> None:
    """Write down what is installed, if that is not what is written there. What cannot be read is written anew."""
    try:
        known = Installation.load(state_dir)
    except errors.UnreadableState as e:
        known = None
        _say(f"{e}; it is written anew")
    if known:
        installation = installation._replace(version=known.version, unknown=known.unknown)
    if known != installation:
        installation.save(state_dir)


def _entry(arguments: argparse.Namespace) -> dict[str, Any]:
    """Our entry of the list, with only the directories and the file that differ from the defaults."""
    roots = {
        "stateDir": arguments.state_dir,
        "runDir": arguments.run_dir,
        "configFile": arguments.config_file,
    }
    return conflist.entry(
        **{row.key: roots[row.key] for row in config.ROOTS if roots[row.key] != row.default}
    )


def _settings(arguments: argparse.Namespace, root: str) -> dict[str, Any]:
    """The settings that the options ask for. Raises InvalidConfiguration if they are invalid, alone or with those in ``config.yaml``."""
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
    config.load_config({"configFile": root + arguments.config_file, **settings})
    if arguments.kubeconfig:
        kubeconfig.load(arguments.kubeconfig, root)
    return settings


def _given(arguments: argparse.Namespace) -> Credential | None:
    return next((row for row in CREDENTIALS if getattr(arguments, row.attribute)), None)


def _place(arguments: argparse.Namespace, row: Credential) -> str:
    """The path of the credential's file, as the host sees it."""
    return f"{os.path.dirname(arguments.config_file)}/{row.name}"


def _secret(arguments: argparse.Namespace) -> str:
    """The secret that an option gives; empty if none does. Raises NoAuthKey."""
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
    """Append missing settings to ``config.yaml``. The file belongs to the admin, so existing settings are not changed.

    Raises InvalidConfiguration if a setting has another value there.
    """
    import yaml

    there = config.read(path)
    missing = {key: value for key, value in settings.items() if there.get(key) != value}
    if not missing:
        return
    clash = next((key for key in missing if key in there), None)
    if clash:
        reason = (
            f"the file has {errors.show(there[clash])}, but the option says {errors.show(missing[clash])}"
        )
        raise errors.InvalidConfiguration(
            where=path, key=clash, reason=reason, expected=f"Change {clash} in {path}, or omit the option."
        )
    text = ""
    if there:
        with open(path, encoding="utf-8") as f:
            text = f.read().rstrip("\n") + "\n"
    files.put(path, (text + yaml.safe_dump(missing, sort_keys=True)).encode(), 0o644)
    _say(f"configuration: {path}")


def _install_binary(root: str, bin_dir: str) -> None:
    """Replace the plugin by a rename, because the old file may be running."""
    python = detect.find_python(root)
    if files.put(
        f"{root}{bin_dir}/{BINARY}", interpreter.fit_to_python(Path(artefact.executable()), python), 0o755
    ):
        _say(
            f"plugin: {bin_dir}/{BINARY}, interpreter: {python or 'the first Python 3.10 or newer that is found'}"
        )


def _name_earlier_pods(host: config.Config, root: str) -> None:
    """Name the running pods that become nodes only when they are restarted, because the runtime does not call ADD for them again."""
    waiting = unenrolled.waiting(host, root)
    if waiting:
        more = f" and {len(waiting) - SHOWN} more" if len(waiting) > SHOWN else ""
        _say(f"restart these pods to make them nodes: {', '.join(waiting[:SHOWN])}{more}")


def _warn(host: config.Config, root: str) -> None:
    """Warn about problems that will keep pods from becoming nodes."""
    static_key, *others = CREDENTIALS
    row = (
        static_key if select.is_static(host) else next(row for row in others if getattr(host, row.attribute))
    )
    path = root + getattr(host, row.attribute)
    try:
        row.check(credential.read(path, row.what, row.setting), path)
    except errors.NoAuthKey as e:
        _say(f"warning: {e}. {e.advice}")
    if not preflight.has_tun():
        _say(f"warning: {preflight.NO_TUN}. {preflight.LOAD_TUN}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
