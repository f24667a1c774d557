"""The Go programs' own tests, for worker, supervisor and devcontrol, on real TUN devices in their own network namespaces."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import builds
import pytest
from builds.go import DEVCONTROL, WORKERS, go_environ, module_sources

TAGS = (WORKERS / "tags.txt").read_text(encoding="ascii").strip()
PACKAGES = [
    pytest.param(module, package, id=f"{module.name}/{package}")
    for module in (WORKERS, DEVCONTROL)
    for package in sorted({str(path.parent.relative_to(module)) for path in module.rglob("*_test.go")})
]


@pytest.fixture(scope="session")
def programs(scratch: Path) -> Path:
    """A directory with the three programs, as shipped and as the other suites use them. Any user can execute them."""
    directory = scratch / "programs"
    directory.mkdir(mode=0o755)
    for program in (*builds.workers().iterdir(), builds.devcontrol()):
        Path(shutil.copy(program, directory)).chmod(0o755)
    return directory


@pytest.mark.long
@pytest.mark.parametrize(("module", "package"), PACKAGES)
def test_the_go_programs_pass_their_own_tests(module: Path, package: str, programs: Path) -> None:
    """``go test`` of each package passes, with the features that are linked into the artefact."""
    done = subprocess.run(
        ["go", "test", "-count=1", "-trimpath", f"-tags={TAGS}", f"./{package}"],
        check=False,
        cwd=module_sources(module),
        env=go_environ(CGO_ENABLED="0", PROGRAMS=str(programs)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert done.stdout.startswith("ok"), done.stdout
