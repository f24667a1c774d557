"""Fields of foreign JSON: of the expected type, or empty. Answers of control planes, the cluster's API and a worker are hostile."""

from __future__ import annotations

from typing import Any

MAX_TEXT = 255
"""Characters of a name or an ID: a domain name has no more."""

MAX_TEXTS = 64
"""Texts of a list: a device that has more tags or addresses is not one of ours."""


def as_dict(value: object) -> dict[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """A JSON list, or an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """A text, cut to the length of a domain name, with only its printable characters."""
    return "".join(c for c in value if c.isprintable())[:MAX_TEXT] if isinstance(value, str) else ""


def as_texts(value: object) -> tuple[str, ...]:
    """The texts of a JSON list, not too many of them."""
    return tuple(as_text(item) for item in as_list(value)[:MAX_TEXTS] if isinstance(item, str))


def as_word(value: object) -> str:
    """A text without spaces, as an ID is; or none."""
    text = as_text(value)
    return "" if " " in text else text
