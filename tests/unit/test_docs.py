"""Pages of docs/ that are tables of the code are equal to it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def generated() -> dict[str, str]:
    """What packaging/docs.py would write."""
    spec = importlib.util.spec_from_file_location("docs", ROOT / "packaging/docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


@pytest.mark.parametrize("path", generated())
def test_a_generated_page_is_equal_to_the_code(path: str) -> None:
    """Run `make docs` where this fails."""
    assert (ROOT / path).read_text(encoding="utf-8") == generated()[path]
