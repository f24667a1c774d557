"""Virtual environments whose packages are locked by version and hash."""

import shutil
import subprocess
import sys
from pathlib import Path

from builds.apt import need
from builds.cache import cache_dir, digest, locked

PACKAGING = Path(__file__).parent.parent
PIP_OPTIONS = (
    "--quiet",
    "--disable-pip-version-check",
    "--no-input",
    "--require-hashes",
    "--only-binary=:all:",
)


def venv(lock: Path = PACKAGING / "dev.lock") -> Path:
    """A virtual environment of this interpreter with exactly the packages of the lock file. Returns the path of its Python.

    It is built in its final place, because its scripts contain their path, and is complete once it has its mark. It is keyed by the lock
    file and the interpreter, and shared between checkouts.
    """
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    key = digest([lock.read_bytes(), str(base), sys.version])
    home = cache_dir() / f"venv-{key}"
    python, mark = home / "bin" / "python", home / "complete"
    if mark.exists():
        return python
    with locked(home.name):
        if not mark.exists():
            shutil.rmtree(home, ignore_errors=True)
            create(home)
            pip_install(python, ["--requirement", str(lock)])
            mark.touch()
    return python


def create(home: Path) -> None:
    """Create an empty virtual environment with pip. Installs python3-venv, which Debian packages separately, if it is missing."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        need(["venv"])
    print(f"creating {home}", file=sys.stderr)
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", str(home)], check=True, stdout=sys.stderr)


def pip_install(python: Path, arguments: list[str]) -> None:
    """Run pip install, which accepts only wheels with known hashes."""
    subprocess.run(
        [str(python), "-m", "pip", "install", *PIP_OPTIONS, *arguments], check=True, stdout=sys.stderr
    )
