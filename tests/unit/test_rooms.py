"""The structure of the package: layers (pyproject.toml), no import cycles, and limits for functions and modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).parents[2] / "tailscale_cni"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_FUNCTION_LINES, MAX_MODULE_LINES = 50, 400
REASON = "This is long because"
"""The docstring of a longer function or module has these words and the reason."""


def test_no_module_imports_itself_through_others() -> None:
    """There is no import cycle, not even for types only."""
    graph = grimp.build_graph("tailscale_cni", cache_dir=None)
    left = set(graph.modules)
    while ends := {module for module in left if _is_end(graph, module, left)}:
        left -= ends
    assert not left, f"in a cycle, or between two: {sorted(left)}"


def _is_end(graph: grimp.ImportGraph, module: str, left: set[str]) -> bool:
    """Whether a module imports none of the modules that are left, or none of them imports it. Such a module is in no cycle."""
    imported, importing = (
        graph.find_modules_directly_imported_by(module),
        graph.find_modules_that_directly_import(module),
    )
    return not imported & left or not importing & left


def test_the_verbs_are_five() -> None:
    """The package verbs has a module for each of CNI's five verbs, and no others."""
    names = {path.stem for path in (PACKAGE / "verbs").glob("*.py")}
    assert names == {"__init__", "add", "check", "delete", "gc", "status"}


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=str)
def test_a_room_has_a_sentence(path: Path) -> None:
    """Every subpackage has a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_long_says_why(path: Path) -> None:
    """A module of more than 400 lines or a function of more than 50 has the reason in its docstring."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    if len(text.splitlines()) > MAX_MODULE_LINES:
        assert REASON in (ast.get_docstring(tree) or "")
    for function in _functions(tree):
        if (function.end_lineno or 0) - function.lineno >= MAX_FUNCTION_LINES:
            assert REASON in (ast.get_docstring(function) or ""), function.name


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
