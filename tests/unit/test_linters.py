"""Linters as tests, with the same versions on every machine."""

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
    """Run a linter. If it fails, its output is the failure of the test."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def test_ruff() -> None:
    """All rules of ruff hold, except those that pyproject.toml disables with a reason."""
    check([BIN / "ruff", "check", "--no-cache", "--output-format=concise"])


def test_ruff_format() -> None:
    """The code is formatted with ruff."""
    check([BIN / "ruff", "format", "--no-cache", "--check"])


@pytest.mark.long
@pytest.mark.parametrize("folders", [["tailscale_cni", "packaging"], ["tests"]], ids=" ".join)
def test_mypy(folders: list[str]) -> None:
    """The code passes mypy in strict mode."""
    check([sys.executable, "-m", "mypy", *folders])


def test_rooms() -> None:
    """No part imports what docs/architecture.md forbids."""
    check([BIN / "lint-imports", "--no-cache"])


@pytest.mark.parametrize("module", GO_MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_gofmt(module: Path) -> None:
    """The Go code is formatted with gofmt."""
    files = [path for path in sources(module, tests=True) if path.suffix == ".go"]
    gofmt = go_toolchain().with_name("gofmt")
    done = subprocess.run([gofmt, "-l", "-d", *files], capture_output=True, text=True, check=True)
    assert not done.stdout, done.stdout


OWN_GO = [module for module in GO_MODULES if any(path.suffix == ".go" for path in sources(module))]
TAGS = (ROOT / "workers" / "tags.txt").read_text(encoding="ascii").strip()


@pytest.mark.parametrize("tags", ["", TAGS], ids=["plain", "tags"])
@pytest.mark.parametrize("module", OWN_GO, ids=lambda path: str(path.relative_to(ROOT)))
def test_go_vet(module: Path, tags: str) -> None:
    """``go vet`` passes for a Go module. The flags are those of each build, so that the build cache is used."""
    if tags and module.name != "workers":
        pytest.skip("only the worker is built with tags")
    check(
        [go_toolchain(), "vet", "-trimpath", "-buildvcs=false", f"-tags={tags}", "./..."],
        module_sources(module),
        go_environ(CGO_ENABLED="0"),
    )


@pytest.mark.parametrize("module", GO_MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_go_modules_are_tidy(module: Path) -> None:
    """A go.mod requires exactly the modules that are used."""
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
    """The shell scripts pass shellcheck. The launcher is a template and is tested below."""
    scripts = [ROOT / ".ci" / "run", *(path for path in ROOT.rglob("*.sh") if path.name != "launcher.sh")]
    check(["shellcheck", *scripts])


def test_shellcheck_of_the_launcher() -> None:
    """The launcher, with its placeholders filled in, is portable sh."""
    launcher = (ROOT / "packaging" / "front" / "launcher.sh").read_text(encoding="utf-8")
    for name, text in {"PYTHONS": " ".join(PYTHONS), "FASTPATH": "pass", "BOOTSTRAP": "pass"}.items():
        launcher = launcher.replace(f"@{name}@", text)
    done = subprocess.run(
        ["shellcheck", "--shell=sh", "-"], input=launcher, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
