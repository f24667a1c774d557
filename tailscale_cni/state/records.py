"""Records: how every JSON file of ``stateDir`` and ``runDir`` is written and read.

A record is a NamedTuple. The type of a field is the type of its default; a field without a default is required text. A record
with the field ``unknown`` preserves fields that this version does not know, as JSON text, so that a downgrade loses nothing.
A record with the field ``version`` preserves the version, too. A document without a version has version 1.

This module must not know what any record is for.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .. import errors
from . import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Parsers = Mapping[str, Callable[[Any], Any]]

R = TypeVar("R", bound=NamedTuple)

VERSION = 1
"""The version that is written. A field never changes its meaning. The version grows when a new field replaces an old one."""

UNKNOWN = "unknown"
NUMBER_LIMIT = 2**64
"""An upper limit for numbers in records: the cookie of a network namespace has 64 bits."""


def encode(record: NamedTuple) -> bytes:
    """A record as JSON, with all fields of a newer version that it was read with."""
    return dump(document(record))


def dump(document: Mapping[str, Any]) -> bytes:
    """A JSON object as it is written in our files: compact, on one line."""
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def document(record: NamedTuple) -> dict[str, Any]:
    """A record as a JSON object. A value that ``lenient`` decoding could not use is preserved, unless the field was set since."""
    known = record._asdict()
    unknown: dict[str, Any] = json.loads(known.pop(UNKNOWN, "") or "{}")
    defaults = record._field_defaults
    kept = {key: value for key, value in unknown.items() if known.get(key) == defaults.get(key)}
    return {**unknown, **known, **kept}


def decode(cls: type[R], document: object, *, parsers: Parsers | None = None, lenient: bool = False) -> R:
    """A record from a JSON document.

    ``parsers`` are for fields whose type is not in PLAIN. A parser takes a value of the document, and raises ValueError. With
    ``lenient``, a field whose value has a wrong type gets its default, if there is one. Raises ValueError with the reason.
    """
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - callers handle it in the same way
    version = _version(document, lenient=lenient)
    values = _usual(cls, document, parsers or {})
    defaults, parsers = cls._field_defaults, parsers or {}
    unknown = {key: value for key, value in document.items() if key not in cls._fields or key == UNKNOWN}
    unknown.pop("version", None)
    for field in cls._fields:
        if field in values:
            continue
        if field in document and field != UNKNOWN:
            try:
                parse = parsers.get(field)
                value = document[field]
                values[field] = parse(value) if parse else plain(value, defaults.get(field, ""))
            except ValueError:
                if not (lenient and field in defaults):
                    raise ValueError(_because(f"{field} is not what it should be", version)) from None
                unknown[field] = document[field]
        elif field not in defaults:
            raise ValueError(_because(f"{field} is missing", version))
    if unknown and UNKNOWN in cls._fields:
        values[UNKNOWN] = json.dumps(unknown, separators=(",", ":"))
    make: Callable[..., R] = cls
    return make(**values)


def _version(document: dict[str, Any], *, lenient: bool) -> int:
    version = document.get("version", VERSION)
    if isinstance(version, int) and not isinstance(version, bool) and 0 < version < NUMBER_LIMIT:
        return version
    if lenient:
        return VERSION
    raise ValueError("its version is no number")


def _usual(cls: type[NamedTuple], document: dict[str, Any], parsers: Parsers) -> dict[str, Any]:
    """The fields that are plain ASCII text, as nearly all are. This is a shortcut: an ADD may read a hundred records while others wait."""
    defaults, usual = cls._field_defaults, dict[str, Any]()
    for field in cls._fields:
        value = document.get(field)
        is_usual = type(value) is str and value.isascii() and "\0" not in value and field not in parsers
        if is_usual and type(defaults.get(field, "")) is str:
            usual[field] = value
    usual.pop(UNKNOWN, None)
    return usual


def load(cls: type[R], path: str, *, parsers: Parsers | None = None, lenient: bool = False) -> R | None:
    """A record from a file; None if there is no file. Raises UnreadableState, InputOutput."""
    found = files.read_json(path)
    if found is None:
        return None
    try:
        return decode(cls, found, parsers=parsers, lenient=lenient)
    except ValueError as e:
        raise errors.UnreadableState(path=path, reason=e) from None


def number(first: int, last: int) -> Callable[[Any], int]:
    """A parser of whole numbers from ``first`` to ``last``."""

    def parse(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and first <= value <= last:
            return value
        raise ValueError("no number, or out of range")

    return parse


def word(value: Any) -> str:
    """A parser of text that is safe as one component of a path, or empty. Raises ValueError."""
    text = _text(value)
    if "/" in text or text in (".", ".."):
        raise ValueError("no part of a path")
    return text


def plain(value: Any, default: Any) -> Any:
    """A value of the same type as ``default``; for the default None, a number or None. Raises ValueError."""
    return PLAIN[type(default)](value)


def _text(value: Any) -> str:
    if isinstance(value, str) and "\0" not in value:
        if not value.isascii():
            value.encode()  # raises ValueError for an unpaired surrogate, which no path can have
        return value
    raise ValueError("no text")


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(map(_text, value))
    raise ValueError("no list of text")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("neither true nor false")


def _seconds(value: Any) -> float:
    if isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < NUMBER_LIMIT:
        return float(value)  # neither infinite nor NaN
    raise ValueError("no number, or too large")


_whole = number(-NUMBER_LIMIT, NUMBER_LIMIT)

PLAIN: Mapping[type, Callable[[Any], Any]] = {
    str: _text,
    tuple: _texts,
    bool: _flag,
    int: _whole,
    float: _seconds,
    type(None): lambda value: None if value is None else _whole(value),
}
"""The parsers of fields, by the type of their defaults."""


def _because(reason: str, version: int) -> str:
    if version > VERSION:
        return f"{reason}; a newer version of tailscale-cni wrote it (format {version}, this one knows {VERSION})"
    return reason


# --- files that cannot be read ------------------------------------------------------------------------------------


def set_aside(state_dir: str, path: str) -> str:
    """Move a file or directory from ``stateDir`` to ``stateDir/unreadable``; return the new path.

    An earlier entry of the same name is replaced. Raises InputOutput, UnsafeDirectory.
    """
    directory = f"{state_dir}/unreadable"
    files.make_directory(directory)
    target = f"{directory}/{os.path.relpath(path, state_dir).replace('/', '-')}"
    try:
        files.clear(target)
        os.rename(path, target)
    except FileNotFoundError:  # another process was first
        pass
    except OSError as e:
        raise errors.InputOutput(what=f"{path} cannot be moved", reason=e.strerror, path=directory) from None
    return target


def _to_stderr(text: str) -> None:
    os.write(2, f"{text}\n".encode(errors="backslashreplace"))


_tell: Callable[[str], None] = _to_stderr
_told: set[str] = set()


def warn_through(tell: Callable[[str], None]) -> None:
    """Send this process's warnings about records to ``tell`` from now on. The default is standard error."""
    global _tell  # noqa: PLW0603 - a process is one call
    _tell = tell
    _told.clear()


def warn(text: str) -> None:
    """Warn about a record, once per call. A damaged record does not stop other pods, so this is not an error."""
    if text not in _told:
        _told.add(text)
        _tell(text)
