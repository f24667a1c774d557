"""Fixtures for all unit tests: the installed Python interpreters."""

from __future__ import annotations

import pytest

from tests.kit.interpreters import SUPPORTED, interpreters


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with ``interpreter`` on each supported Python, and one with ``old_interpreter`` on each that is too old."""
    for name, wanted in (("interpreter", True), ("old_interpreter", False)):
        if name in metafunc.fixturenames:
            chosen = {
                version: path for version, path in interpreters().items() if (version >= SUPPORTED) is wanted
            }
            metafunc.parametrize(name, chosen.values(), ids=[f"{major}.{minor}" for major, minor in chosen])
