"""Fields of untrusted JSON: of the expected type, or empty. Control planes, the cluster's API and workers are not trusted."""

from __future__ import annotations

from typing import Any

MAX_TEXT = 255
"""The most characters of a name or an ID, as of a domain name."""

MAX_TEXTS = 64
"""The most texts of a list. A device with more tags or addresses is not one of ours."""


def as_dict(value: object) -> dict[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """A JSON list, or an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """The printable characters of a text, at most MAX_TEXT; empty for anything else."""
    return "".join(c for c in value if c.isprintable())[:MAX_TEXT] if isinstance(value, str) else ""


def as_texts(value: object) -> tuple[str, ...]:
    """The first MAX_TEXTS texts of a JSON list."""
    return tuple(as_text(item) for item in as_list(value)[:MAX_TEXTS] if isinstance(item, str))


def as_word(value: object) -> str:
    """A text without spaces, for example an ID; empty for anything else."""
    text = as_text(value)
    return "" if " " in text else text
