"""The linters are tests: what passes here passes everywhere, with the same versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builds import go_toolchain
from builds.artefact import PYTHONS
from builds.go import go_environ, sources

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
GO_MODULES = sorted(path.parent for path in ROOT.rglob("go.mod") if "testdata" not in path.parts)


def check(command: list[str | Path], cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a linter; what it says is why the test fails."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def test_ruff() -> None:
    """Every rule of ruff holds, but for those that pyproject.toml leaves out with a reason."""
    check([BIN / "ruff", "check", "--no-cache", "--output-format=concise"])


def test_ruff_format() -> None:
    """The code is formatted as ruff formats it."""
    check([BIN / "ruff", "format", "--no-cache", "--check"])


@pytest.mark.long
@pytest.mark.parametrize("folders", [["tailscale_cni", "packaging"], ["tests"]], ids=" ".join)
def test_mypy(folders: list[str]) -> None:
    """Everything is typed, strictly."""
    check([sys.executable, "-m", "mypy", *folders])


def test_rooms() -> None:
    """No part imports what docs/architecture.md keeps from it."""
    check([BIN / "lint-imports", "--no-cache"])


@pytest.mark.parametrize("module", GO_MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_gofmt(module: Path) -> None:
    """The Go code is formatted as gofmt formats it."""
    files = [path for path in sources(module, tests=True) if path.suffix == ".go"]
    gofmt = go_toolchain().with_name("gofmt")
    done = subprocess.run([gofmt, "-l", "-d", *files], capture_output=True, text=True, check=True)
    assert not done.stdout, done.stdout


@pytest.mark.parametrize(
    "tags", ["", (ROOT / "workers" / "tags.txt").read_text(encoding="ascii").strip()], ids=["plain", "tags"]
)
def test_go_vet(tags: str) -> None:
    """`go vet` has nothing to say about the Go programs, with the flags of either build (so that it finds them built)."""
    check(
        [go_toolchain(), "vet", "-trimpath", "-buildvcs=false", f"-tags={tags}", "./..."],
        ROOT / "workers",
        go_environ(CGO_ENABLED="0"),
    )


def test_go_modules_are_tidy() -> None:
    """go.mod names what the Go programs use, no more and no less."""
    check([go_toolchain(), "mod", "tidy", "-diff"], ROOT / "workers", go_environ())


def test_shellcheck() -> None:
    """No shell script has a mistake that shellcheck knows; the stub is read as what it becomes."""
    scripts = [ROOT / ".ci" / "run", *(path for path in ROOT.rglob("*.sh") if path.name != "stub.sh")]
    check(["shellcheck", *scripts])


def test_shellcheck_of_the_stub() -> None:
    """The artefact's first lines are sound sh, for any sh."""
    stub = (ROOT / "packaging" / "front" / "stub.sh").read_text(encoding="utf-8")
    for name, text in {"PYTHONS": " ".join(PYTHONS), "DOOR": "pass", "ONWARD": "pass"}.items():
        stub = stub.replace(f"@{name}@", text)
    done = subprocess.run(
        ["shellcheck", "--shell=sh", "-"], input=stub, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
