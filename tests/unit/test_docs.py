"""The generated pages of docs/ equal the tables in the code, and their examples are valid."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tailscale_cni.node import resolve

ROOT = Path(__file__).resolve().parents[2]


def generated() -> dict[str, str]:
    """Returns the pages that packaging/docs.py would write, by path."""
    spec = importlib.util.spec_from_file_location("docs", ROOT / "packaging/docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


@pytest.mark.parametrize("path", generated())
def test_a_generated_page_is_equal_to_the_code(path: str) -> None:
    """A generated page is up to date. If it is not, run ``make docs``."""
    assert (ROOT / path).read_text(encoding="utf-8") == generated()[path]


def examples() -> list[str]:
    """Returns the YAML examples of host configurations in the pages."""
    pages = (ROOT / "docs" / name for name in ("annotations.md", "configuration.md"))
    return [text for page in pages for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)]


@pytest.mark.parametrize("text", examples())
def test_what_the_pages_show_is_a_configuration(text: str, tmp_path: Path) -> None:
    """Every example is a valid configuration."""
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    assert str(file) in resolve.load({"configFile": str(file)}).origin.values()
