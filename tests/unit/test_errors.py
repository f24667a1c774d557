"""Errors are data: their codes are unique, their sentences complete, and foreign values in them harmless."""

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
    """The names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_an_error_says_what_happened_and_what_to_do(error: type[errors.Error]) -> None:
    """Every class has a sentence and a hint of its own, and both can be filled with what they name."""
    assert error.__doc__
    assert "hint" in vars(error)
    raised = error(**dict.fromkeys(fields(error.__doc__) | fields(error.hint), 7))
    assert str(raised).strip()
    assert raised.advice.strip()


def test_our_codes_are_unique() -> None:
    """From 100 on a code is one error, so that it can be looked up."""
    ours = [c.code for c in CLASSES if c.code >= 100]
    assert sorted(ours) == sorted(set(ours))


@given(st.text())
def test_a_foreign_value_cannot_break_a_line(value: str) -> None:
    """Nothing that was shown has a control character, a bidirectional mark, or more than fits."""
    shown = errors.show(value)
    assert shown.rstrip("…").isascii()
    assert shown.isprintable()
    assert len(shown) <= errors.SHOWN + 1


def test_a_value_with_braces_is_only_shown() -> None:
    """A pod author's braces are not a format."""
    error = errors.UnknownContainer(container_id="{container_id.__class__}")
    assert "{container_id.__class__}" in str(error)
