"""Error classes have unique codes and complete messages, and foreign values in messages are harmless."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailscale_cni import errors

CLASSES = [
    c
    for c in vars(errors).values()
    if isinstance(c, type) and issubclass(c, errors.Error) and c is not errors.Error
]


def fields(text: str) -> set[str]:
    """Returns the names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_an_error_says_what_happened_and_what_to_do(error: type[errors.Error]) -> None:
    """Every error class has a message and a hint, and both can be filled in."""
    assert error.__doc__
    assert "hint" in vars(error)
    raised = error(**dict.fromkeys(fields(error.__doc__) | fields(error.hint), 7))
    assert str(raised).strip()
    assert raised.advice.strip()


def test_our_codes_are_unique() -> None:
    """Every code from 100 on belongs to one error class, so that users can look it up."""
    ours = [c.code for c in CLASSES if c.code >= 100]
    assert sorted(ours) == sorted(set(ours))


@given(st.text())
def test_a_foreign_value_cannot_break_a_line(value: str) -> None:
    """A shown value has no control characters or bidirectional marks and is limited in length."""
    shown = errors.show(value)
    assert shown.rstrip("…").isascii()
    assert shown.isprintable()
    assert len(shown) <= errors.SHOWN + 1


def test_a_value_with_braces_is_only_shown() -> None:
    """Braces in a value are shown and not interpreted as a format."""
    error = errors.UnknownContainer(container_id="{container_id.__class__}")
    assert "{container_id.__class__}" in str(error)
