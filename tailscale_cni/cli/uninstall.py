"""Remove the plugin from this host. Pods keep their primary network.

The network list is removed first, so that no new pod is enrolled, then the nodes of running pods, then all other files. The configuration
and the secrets stay unless --purge is given.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from .. import config, errors
from ..devices import deletions
from ..identity import release, retained
from ..install import conflist, detect
from ..install.detect import BINARY
from ..install.record import Installation
from ..node import teardown
from ..state import files
from ..state.attachments import Attachments
from ..state.outbox import Outbox
from ..state.releases import Releases
from . import add_roots

DIRECTORIES = (
    "attachments",
    "identities",
    "names",
    "claims",
    "namespaces",
    "outbox",
    "releases",
    "unreadable",
    "cache",
)
FILES = ("run", "host", "enroll.json", "install.json")
"""The contents of a state directory."""

SHOWN = 10
"""The number of nodes that are named."""

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_roots(parser)
    parser.add_argument(
        "--cni-conf-dir",
        metavar="DIR",
        help="the runtime's directory of network lists (default: as installed)",
    )
    parser.add_argument(
        "--cni-bin-dir", metavar="DIR", help="the runtime's directory of plugins (default: as installed)"
    )
    parser.add_argument(
        "--forget-identities",
        action="store_true",
        help="also delete the retained identities of this host: their nodes in the tailnet (not with a static auth key), and their "
        "Secrets in the cluster",
    )
    parser.add_argument(
        "--purge",
        action="store_true",
        help="also remove the configuration and its credential files, except the kubeconfig",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Remove everything that ``install`` and the nodes have created. Parts that are missing are skipped."""
    installed = _installed(arguments.state_dir)
    found = detect.detect_layout("")
    conf_dir = arguments.cni_conf_dir or (installed.conf_dir if installed else found.conf_dir)
    bin_dir = arguments.cni_bin_dir or (installed.bin_dir if installed else found.bin_dir)
    run_dir = installed.entry.get("runDir", arguments.run_dir) if installed else arguments.run_dir
    if conflist.remove(conf_dir):
        _say(f"{conf_dir}/{conflist.NAME} is removed. New pods get only the primary network")
    left = _end_nodes(arguments.state_dir)
    if left:
        _say(f"{left} nodes could not be ended. Fix the errors above and run 'uninstall' again")
        return 1
    forgotten = _forget(arguments.state_dir, installed) if arguments.forget_identities else None
    _release_identities(arguments.state_dir)
    _report_remaining(
        arguments.state_dir, list(retained.every(arguments.state_dir)) if forgotten is None else forgotten
    )
    files.remove(f"{bin_dir}/{BINARY}")
    if arguments.purge:
        _purge(installed)
    _remove_state(arguments.state_dir, run_dir)
    _say("tailscale-cni is removed")
    return 0


def _installed(state_dir: str) -> Installation | None:
    """The record; None if it cannot be read. The options and the default directories are used then."""
    try:
        return Installation.load(state_dir)
    except errors.UnreadableState as e:
        _say(f"{e}; if something is left, give --cni-conf-dir, --cni-bin-dir and --run-dir")
        return None


def _end_nodes(state_dir: str) -> int:
    """End the nodes of all pods. Returns the number of failures."""
    left = 0
    for attachment in Attachments(state_dir).all():
        try:
            teardown.end(attachment)
        except (errors.Error, OSError) as e:
            _say(f"{attachment.display_name}: {e}")
            left += 1
        else:
            _say(f"{attachment.display_name} is no longer a node")
    return left


def _forget(state_dir: str, installed: Installation | None) -> list[retained.Retained]:
    """Forget all identities that this host retains. Returns those whose nodes stay in the tailnet."""
    host = config.load_for_cleanup(installed.entry if installed else {})
    stay = []
    for one in retained.every(state_dir):
        try:
            if not retained.forget(state_dir, one, host):
                stay.append(one)
        except errors.Error as e:  # a pod uses it, or it was released or forgotten at the same time
            _say(f"{e}. {e.advice}")
    return stay


def _report_remaining(state_dir: str, stay: list[retained.Retained]) -> None:
    """Deliver pending deletions, and report the nodes that stay in the tailnet (``stay`` among them)."""
    deletions.deliver(state_dir)
    unsaid = [deletion.who for deletion in Outbox(state_dir).all()]
    if unsaid:
        _say(f"{_count(unsaid)} could not be deleted through the control plane's API: {_some(unsaid)}")
    if stay:
        names = [one.node for one in stay]
        what = "the node of 1 retained identity stays"
        if len(names) > 1:
            what = f"the nodes of {len(names)} retained identities stay"
        _say(f"{what} in the tailnet: {_some(names)}")
    if unsaid or stay:
        _say(
            "delete these nodes in the admin console or with 'headscale nodes delete': their keys no longer exist"
        )


def _count(nodes: list[str]) -> str:
    return "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, …"


def _release_identities(state_dir: str) -> None:
    """Tell the cluster that this host no longer uses its identities. They stay in the cluster. Warns about each failure."""
    for owed in Releases(state_dir).all() if release.deliver(state_dir) else ():
        advice = "Delete its Secret in namespace tailscale-cni"
        advice += (
            " and its node in the admin console."
            if owed.delete
            else ", or this host's Node object, before another host can use it."
        )
        _say(
            f"warning: an identity {owed.namespace}/{owed.name} could not be released through the Kubernetes API. {advice}"
        )


def _remove_state(state_dir: str, run_dir: str) -> None:
    """Remove our files only, because an option may name a directory that contains others."""
    for name in DIRECTORIES:
        files.remove_tree(f"{state_dir}/{name}")
    for name in FILES:
        files.clear(f"{state_dir}/{name}")
    files.remove_tree(f"{run_dir}/patience")
    for directory in (run_dir, state_dir):
        with contextlib.suppress(OSError):  # not empty, or not there
            os.rmdir(directory)


def _purge(installed: Installation | None) -> None:
    host = config.load_for_cleanup(installed.entry if installed else {})
    secrets = (host.auth_key_file, host.oauth_client_secret_file, host.headscale_api_key_file)
    for path in filter(None, (*secrets, host.config_file)):
        files.remove(path)
    if host.kubeconfig:
        _say(
            f"{host.kubeconfig} is not removed, and still gives access to the cluster. To revoke it, see docs/namespaces.md"
        )
    directory = os.path.dirname(host.config_file)
    if os.path.isdir(directory) and not os.listdir(directory):
        os.rmdir(directory)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
