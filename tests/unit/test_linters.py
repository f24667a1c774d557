"""The linters are tests: what passes here passes everywhere, with the same versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builds import go_toolchain
from builds.artefact import PYTHONS
from builds.go import go_environ, module_sources, sources

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


OWN_GO = [module for module in GO_MODULES if any(path.suffix == ".go" for path in sources(module))]
TAGS = (ROOT / "workers" / "tags.txt").read_text(encoding="ascii").strip()


@pytest.mark.parametrize("tags", ["", TAGS], ids=["plain", "tags"])
@pytest.mark.parametrize("module", OWN_GO, ids=lambda path: str(path.relative_to(ROOT)))
def test_go_vet(module: Path, tags: str) -> None:
    """`go vet` has nothing to say about a Go module, with the flags of either build (so that it finds them built)."""
    if tags and module.name != "workers":
        pytest.skip("only the worker is built with tags")
    check(
        [go_toolchain(), "vet", "-trimpath", "-buildvcs=false", f"-tags={tags}", "./..."],
        module_sources(module),
        go_environ(CGO_ENABLED="0"),
    )


@pytest.mark.parametrize("module", GO_MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_go_modules_are_tidy(module: Path) -> None:
    """A go.mod names what its module uses, no more and no less."""
    done = subprocess.run(
        [go_toolchain(), "mod", "tidy", "-e", "-diff"],
        cwd=module,
        env=go_environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stdout, done.stdout
    assert not done.returncode or "403 Forbidden" in done.stderr, done.stderr


def test_shellcheck() -> None:
    """No shell script has a mistake that shellcheck knows; the launcher is read as what it becomes."""
    scripts = [ROOT / ".ci" / "run", *(path for path in ROOT.rglob("*.sh") if path.name != "launcher.sh")]
    check(["shellcheck", *scripts])


def test_shellcheck_of_the_stub() -> None:
    """The artefact's first lines are sound sh, for any sh."""
    launcher = (ROOT / "packaging" / "front" / "launcher.sh").read_text(encoding="utf-8")
    for name, text in {"PYTHONS": " ".join(PYTHONS), "FASTPATH": "pass", "BOOTSTRAP": "pass"}.items():
        launcher = launcher.replace(f"@{name}@", text)
    done = subprocess.run(
        ["shellcheck", "--shell=sh", "-"], input=launcher, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
