"""The lock files: what setup.cfg asks for, resolved for every supported Python at once, with hashes."""

import configparser
import subprocess
import sys
import tempfile
from pathlib import Path

from builds.environment import PACKAGING, venv

HEADER = "# Made by `make lock` from setup.cfg. Do not edit.\n"


def lock() -> None:
    """Write the lock files in packaging/ anew, with the newest versions that setup.cfg allows."""
    setup = configparser.ConfigParser()
    setup.read(PACKAGING.parent / "setup.cfg")
    runtime = setup["options"]["install_requires"]
    write(PACKAGING / "runtime.lock", runtime)
    extras = setup["options.extras_require"]
    write(PACKAGING / "dev.lock", runtime + extras["dev"])
    write(PACKAGING / "bench.lock", runtime + extras["dev"] + "\n" + extras["bench"])


def write(target: Path, requirements: str) -> None:
    """Resolve the requirements, one a line, into a lock file."""
    command = [str(venv().parent / "uv"), "pip", "compile", "--universal", "--python-version=3.10", "--quiet"]
    options = ["--generate-hashes", "--no-header", "--no-annotate", "--only-binary=:all:"]
    with tempfile.NamedTemporaryFile("w", suffix=".in") as file:
        file.write(requirements)
        file.flush()
        resolved = subprocess.run(
            [*command, *options, file.name], check=True, stdout=subprocess.PIPE, text=True
        )
    target.write_text(HEADER + resolved.stdout, encoding="utf-8")
    print(f"wrote {target}", file=sys.stderr)
