"""The command line, ``tailscale-cni COMMAND``. Each command has a module of its own; this one lists and runs them."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from .. import __version__, errors
from ..config import RUN_DIR, STATE_DIR

ABOUT = """\
tailscale-cni makes a Kubernetes pod a Tailscale node with its own address, hostname and tags.

The container runtime runs it as a chained CNI plugin. To set it up on this host, see

  tailscale-cni install --help
"""

COMMANDS = ("install", "upgrade", "uninstall", "status", "identities", "config", "worker")


def main(argv: list[str]) -> int:
    """Run the command in ``argv`` (without the program's name) and return the exit status.

    It is 0, 1 for an error, or 130 after SIGINT; argparse exits with 2 for wrong usage. Results go to standard output, everything else to
    standard error.
    """
    if not argv:
        sys.stdout.write(ABOUT)
        return 0
    arguments = _parser(*(argv[:1] if argv[0] in COMMANDS else COMMANDS)).parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except errors.Error as e:
        sys.stderr.write(f"error: {e}\n{e.advice}\n")
        return 1
    except BrokenPipeError:
        return 1
    except OSError as e:
        sys.stderr.write(f"error: {e}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser(*names: str) -> argparse.ArgumentParser:
    """The parser for the commands ``names``. Only their modules are imported, to save time."""
    parser = argparse.ArgumentParser(prog="tailscale-cni", description=ABOUT.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"tailscale-cni {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        module = import_module(f".{name}", __name__)
        about = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=about, description=about)
        module.configure(command)
    return parser


def add_roots(parser: argparse.ArgumentParser) -> None:
    """Add ``--state-dir`` and ``--run-dir``."""
    parser.add_argument(
        "--state-dir", default=STATE_DIR, metavar="DIR", help="the state directory (default: %(default)s)"
    )
    parser.add_argument(
        "--run-dir", default=RUN_DIR, metavar="DIR", help="the directory for sockets (default: %(default)s)"
    )
