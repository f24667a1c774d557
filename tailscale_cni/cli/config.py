"""Show the effective configuration of this host, or check a configuration file.

The output has no secrets: the configuration only names the files that hold them.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from .. import config, errors
from ..install.record import Installation
from ..node import resolve
from .status import API_VERSION, table

if TYPE_CHECKING:
    import argparse

HEADERS = ("KEY", "VALUE", "FROM")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their options."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    about = "Print the value of every key, and where it is set."
    show = commands.add_parser("show", help=about, description=about)
    show.add_argument(
        "--state-dir",
        default=config.STATE_DIR,
        metavar="DIR",
        help="the state directory (default: %(default)s)",
    )
    show.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "yaml"),
        default="table",
        help="the output format (default: %(default)s)",
    )
    show.set_defaults(run=run_show)
    about = "Check a configuration file before you use it."
    check = commands.add_parser("check", help=about, description=about)
    check.add_argument("file", metavar="FILE")
    check.set_defaults(run=run_check)


def run_show(arguments: argparse.Namespace) -> int:
    """Print the value and source of each setting, as the next CNI call on this host will use it."""
    installed = Installation.load(arguments.state_dir)
    if installed is None:
        sys.stderr.write(
            "tailscale-cni is not installed on this host. These are the settings that it would use.\n"
        )
    host = resolve.load(installed.entry if installed else {})
    rows = {
        row.key: {
            "value": config.plain(getattr(host, config.attribute(row.key))),
            "from": host.origin[row.key],
        }
        for row in (*config.ROOTS, *config.SETTINGS)
    }
    sys.stdout.write(_text(rows, arguments.output))
    return 0


def _text(rows: dict[str, dict[str, Any]], form: str) -> str:
    document = {"apiVersion": API_VERSION, "kind": "Configuration", "settings": rows}
    if form == "json":
        return json.dumps(document, indent=2) + "\n"
    if form == "yaml":
        import yaml

        return str(yaml.safe_dump(document, sort_keys=False))
    cells = [(key, _flow(row["value"]), str(row["from"])) for key, row in rows.items()]
    return table([HEADERS, *cells])


def _flow(value: Any) -> str:
    """A value on one line, in YAML's flow style; an empty string is ``-``, so that every column has a cell."""
    return value or "-" if isinstance(value, str) else json.dumps(value)


def run_check(arguments: argparse.Namespace) -> int:
    """Check a file and report that it is valid. Raises InputOutput, InvalidConfiguration, UnsupportedField."""
    path = os.path.abspath(arguments.file)
    if not os.path.isfile(path):
        raise errors.InputOutput(
            what=f"the configuration {path} cannot be read", reason="there is no such file", path=path
        )
    resolve.load({"configFile": path})
    sys.stdout.write(f"{path} is a valid configuration\n")
    return 0
