"""What unit tests share: every Python of the machine that is supported."""

from __future__ import annotations

import pytest

from tests.kit.interpreters import SUPPORTED, interpreters


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `interpreter` runs on each that is supported, one that takes `old_interpreter` on each that is too old."""
    for name, wanted in (("interpreter", True), ("old_interpreter", False)):
        if name in metafunc.fixturenames:
            chosen = {
                version: path for version, path in interpreters().items() if (version >= SUPPORTED) is wanted
            }
            metafunc.parametrize(name, chosen.values(), ids=[f"{major}.{minor}" for major, minor in chosen])
