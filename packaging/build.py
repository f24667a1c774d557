"""Build the parts of the project: `python3 packaging/build.py --help`.

This is the command line of the package `builds` beside this file, whose docstring says how to import it.
"""

import argparse
import os

from builds import devcontrol, go_toolchain, need, venv, workers
from builds.apt import SUITES
from builds.artefact import install
from builds.environment import PACKAGING
from builds.lock import lock

BENCH_LOCK = PACKAGING / "bench.lock"
GOARCH = {"amd64": "amd64", "x86_64": "amd64", "arm64": "arm64", "aarch64": "arm64"}


def main() -> None:
    """Run one command, and print the path of the file that it built."""
    parser = argparse.ArgumentParser(description="Build the parts of tailscale-cni.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser
    for name, what in (("zipapp", "dist/tailscale-cni"), ("workers", "the Go programs inside")):
        add(name, help=what).add_argument("--arch", choices=sorted(GOARCH))
    add("devcontrol", help="the control plane for the demo and the tests")
    add("go", help="the pinned Go toolchain")
    add("venv", help="the Python that everything runs in").add_argument("--bench", action="store_true")
    add("lock", help="resolve the dependencies again into packaging/*.lock")
    add("need", help="the Debian packages of some suites").add_argument("suites", nargs="+", choices=SUITES)
    options = parser.parse_args()
    match options.command:
        case "zipapp":
            print(install(GOARCH[options.arch] if options.arch else None))
        case "workers":
            print(workers(GOARCH[options.arch or os.uname().machine]))
        case "devcontrol":
            print(devcontrol())
        case "go":
            print(go_toolchain())
        case "venv":
            print(venv(BENCH_LOCK) if options.bench else venv())
        case "lock":
            lock()
        case "need":
            need(options.suites)


if __name__ == "__main__":
    main()
