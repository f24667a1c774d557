"""Hosts for the tests."""

from __future__ import annotations

import pytest
from builds import need


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    """What the suite needs of Debian."""
    need(["hosts"])
