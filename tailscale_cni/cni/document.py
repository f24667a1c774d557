"""Strict JSON: decode untrusted bytes to an object, or raise an error that says what is wrong and where.

Python's decoder accepts more than JSON (NaN, Infinity, lone surrogates, numbers beyond the range of a double) and silently drops
duplicate keys, so that two readers may see different documents. Here, each of these is an error.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from tailscale_cni import errors

if TYPE_CHECKING:
    from typing import BinaryIO

MAX_SIZE = 16 << 20
"""Bytes of a document. A document with all annotations of a pod (256 KiB at most) is far smaller."""

_ESCAPE = r"""\\(?: [^u]                                                 # a short escape
          | u(?![dD][89a-fA-F])[0-9a-fA-F]{4}                      # not a surrogate
          | u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}  # a pair of surrogates
          | (u) )                                                  # a lone surrogate"""


class _Refused(Exception):
    """Why a part of the document is refused. ``decode`` turns it into Undecodable."""


def read(stream: BinaryIO | None) -> bytes:
    """Read standard input to its end, or one byte more than ``MAX_SIZE``.

    Raises Undecodable if it is closed or a terminal, InputOutput if it cannot be read.
    """
    if stream is None or stream.closed:
        _refuse("it is closed")
    try:
        if stream.isatty():
            _refuse("it is a terminal")
        return stream.read(MAX_SIZE + 1) or b""
    except OSError as e:
        raise errors.InputOutput(
            what="standard input cannot be read", reason=e.strerror, path="standard input"
        ) from None


def decode(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``: strict JSON in UTF-8, without duplicate keys. Raises Undecodable."""
    if len(data) > MAX_SIZE:
        _refuse(f"it is longer than {MAX_SIZE >> 20} MiB")
    if data.startswith(b"\xef\xbb\xbf"):
        _refuse("it begins with a byte order mark")
    try:
        text = data.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError as e:
        _refuse(f"byte {e.start} is not UTF-8")
    except json.JSONDecodeError as e:
        _refuse(f"{_sentence(e)} at line {e.lineno}, column {e.colno}" if text.strip() else "it is empty")
    except RecursionError:
        _refuse("it is nested too deeply")
    except _Refused as e:
        _refuse(str(e))
    except ValueError:  # since Python 3.10.7, int() rejects more than 4300 digits
        _refuse("it has a number of thousands of digits")
    if not isinstance(value, dict):
        _refuse(f"it is {kind(value)}, not an object")
    _refuse_half_surrogates(text)
    return value


def encode(value: object) -> bytes:
    """One line of JSON, in ASCII. Raises ValueError, TypeError or RecursionError for a value that JSON cannot represent."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def kind(value: object) -> str:
    """The name of a value's JSON type, with its article."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")


def _refuse(reason: str) -> NoReturn:
    raise errors.Undecodable(reason=reason) from None


def _sentence(error: json.JSONDecodeError) -> str:
    return error.msg.removesuffix(" at").removesuffix(":").lower()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Refused(f"the key {errors.show(_first_twice(pairs))} is there twice")
    return result


def _first_twice(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError(pairs)


def _number(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _Refused(f"the number {errors.show(text)} is out of range")
    return number


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


def _refuse_half_surrogates(text: str) -> None:
    """Raise Undecodable if an escape sequence is half of a surrogate pair."""
    if "\\ud" not in text and "\\uD" not in text:
        return
    half = next((match for match in re.finditer(_ESCAPE, text, re.VERBOSE) if match[1]), None)
    if half:
        line = text.count("\n", 0, half.start()) + 1
        _refuse(f"half of a surrogate pair stands alone at line {line}, character {half.start()}")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)
