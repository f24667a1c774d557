"""The lock files: the requirements of setup.cfg, resolved for all supported Python versions at once, with hashes; and the Go modules.

The Go modules follow tailscale.com. They require its newest release whose `go` line the toolchain of packaging/go.lock satisfies, and
whose modules are all available from the module proxy.
"""

import configparser
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from builds.environment import PACKAGING, venv
from builds.go import DEVCONTROL, PATCHES, TOOLS, WORKERS, go_environ, go_toolchain
from builds.patches import read

HEADER = "# Made by `make lock` from setup.cfg. Do not edit.\n"


def lock() -> None:
    """Write the lock files in packaging/ again, with the newest versions that setup.cfg allows."""
    setup = configparser.ConfigParser()
    setup.read(PACKAGING.parent / "setup.cfg")
    runtime = setup["options"]["install_requires"]
    write(PACKAGING / "runtime.lock", runtime)
    extras = setup["options.extras_require"]
    write(PACKAGING / "dev.lock", runtime + extras["dev"])
    write(PACKAGING / "bench.lock", runtime + extras["dev"] + "\n" + extras["bench"])
    lock_go()


def write(target: Path, requirements: str) -> None:
    """Resolve the requirements, one per line, into a lock file."""
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


def lock_go() -> None:
    """Update the Go modules to the newest tailscale.com that can be built, and print what must be reviewed."""
    for version in releases():
        if refused := next(
            (why for module in (WORKERS, DEVCONTROL, TOOLS) if (why := require(module, version))), None
        ):
            print(f"tailscale.com {version} is not taken: {refused}", file=sys.stderr)
            continue
        print(f"the Go modules require tailscale.com {version}", file=sys.stderr)
        break
    for patch in map(read, PATCHES):
        required = go(WORKERS, "list", "-mod=mod", "-m", "-f={{.Version}}", patch.module)
        if required != patch.version:
            print(
                f"judge again: {patch.path} was judged against {patch.version}, not {required}",
                file=sys.stderr,
            )
    print(
        "then run: pytest tests/unit/test_patches.py tests/unit/test_tags.py, and make netns", file=sys.stderr
    )


def releases() -> list[str]:
    """The stable releases of tailscale.com (an even minor version) from the newest one down to the one in use."""
    versions = go(
        WORKERS, "list", "-mod=mod", "-m", "-versions", '-f={{join .Versions " "}}', "tailscale.com"
    ).split()
    current = go(WORKERS, "list", "-mod=mod", "-m", "-f={{.Version}}", "tailscale.com")
    return newest_first(versions, current)


def newest_first(versions: list[str], current: str) -> list[str]:
    """The stable versions among `versions`, newest first, down to the current one."""
    numbers = {
        version: tuple(map(int, found.groups()))
        for version in versions
        if (found := re.fullmatch(r"v(\d+)\.(\d+)\.(\d+)", version)) and int(found[2]) % 2 == 0
    }
    return sorted(
        (one for one in numbers if numbers[one] >= numbers[current]), key=numbers.__getitem__, reverse=True
    )


def require(module: Path, version: str) -> str | None:
    """Make a module require that version of tailscale.com. If that fails, restore the module's files and return the reason.

    A module may be unavailable if only the tests of other packages need it, but not if the build needs it.
    """
    files = {path: path.read_bytes() for path in (module / "go.mod", module / "go.sum")}
    try:
        go_version = go(module, "list", "-mod=mod", "-m", "-f={{.GoVersion}}", f"tailscale.com@{version}")
        go(module, "mod", "edit", f"-require=tailscale.com@{version}", f"-go={go_version}")
        tidy = [str(go_toolchain()), "mod", "tidy", "-e"]
        done = subprocess.run(tidy, cwd=module, env=go_environ(), capture_output=True, text=True, check=False)
        if "requires go >= " in done.stderr:
            done.check_returncode()
        go(module, "list", "-deps", "./...", *(["tool"] if module == TOOLS else []))
    except subprocess.CalledProcessError as error:
        for path, content in files.items():
            path.write_bytes(content)
        lines: list[str] = error.stderr.splitlines()
        return next(line for line in lines if not line.startswith("go: downloading"))
    return None


def go(module: Path, *arguments: str) -> str:
    """Run the pinned `go` in a module, and return what it prints. Raises subprocess.CalledProcessError with the error output."""
    done = subprocess.run(
        [str(go_toolchain()), *arguments],
        cwd=module,
        env=go_environ(),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
