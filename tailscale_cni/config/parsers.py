"""Parsers for the values of settings: each turns a JSON or YAML value into a Config's value, or raises Expected."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..tailnet import is_label, is_tag

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

    from ..tailnet import Network

UID_COUNT = 65536
"""The number of user IDs, from ``uidBase`` on, that nodes may use."""

MAX_RUN_DIR = 80
"""Bytes of ``runDir``."""

MAX_TEMPLATE_LITERAL = 40
"""Characters of literal text in ``hostnameTemplate``. The rest of a hostname's 63 is for the fields that tell pods apart."""


class Expected(Exception):
    """A value is invalid. The message says what was expected; ``path`` and ``value`` are the invalid part of a map."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.path: list[str] = []
        self.value: Any = None

    def within(self, key: Any, value: Any) -> Expected:
        """Add the key of the enclosing map. ``value`` is the value at ``key``, kept if this is the innermost map. Returns self."""
        self.value = self.value if self.path else value
        self.path.insert(0, str(key))
        return self


def string(value: Any) -> str:
    """Parse a non-empty printable string."""
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise Expected("a string")
    return value


def path(value: Any) -> str:
    """Parse an absolute path without ``..``."""
    if (
        not isinstance(value, str)
        or not value.startswith("/")
        or not value.isprintable()
        or "/../" in f"{value}/"
    ):
        raise Expected("an absolute path")
    return value


def run_dir(value: Any) -> str:
    """Parse ``runDir``. The path of a socket below it must fit into the 108 bytes of sockaddr_un; ID and file name take 24."""
    directory = path(value)
    if len(os.fsencode(directory)) > MAX_RUN_DIR:
        raise Expected(f"an absolute path of at most {MAX_RUN_DIR} bytes")
    return directory


def flag(value: Any) -> bool:
    """Parse a boolean."""
    if not isinstance(value, bool):
        raise Expected("true or false")
    return value


def uid(value: Any) -> int:
    """Parse the first of ``UID_COUNT`` user IDs."""
    # TUNSETOWNER takes a C int, so the last user ID must be below 2**31.
    if not isinstance(value, int) or isinstance(value, bool) or not 1000 <= value <= 2**31 - UID_COUNT:
        raise Expected(f"a user ID from 1000 to {2**31 - UID_COUNT}")
    return value


class Unsupported(Expected):
    """A word that this version does not know; another version may."""


def one_of(*words: str) -> Callable[[Any], str]:
    """Make a parser for one of the words."""

    def parse(value: Any) -> str:
        if value not in words:
            raise Unsupported(" or ".join(words))
        return str(value)

    return parse


UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def duration(shortest: float, longest: float) -> Callable[[Any], float]:
    """Make a parser from ``10s``, ``10m``, ``250ms`` or a number of seconds to seconds. Both bounds are seconds."""

    def parse(value: Any) -> float:
        text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
        number = text.rstrip("dhms")
        try:
            seconds = float(number) * UNITS[text[len(number) :] or "s"]
        except (KeyError, ValueError):
            seconds = -1.0
        if not shortest <= seconds <= longest:
            raise Expected(f"a duration from {in_units(shortest)} to {in_units(longest)}, as in 10s, 10m")
        return seconds

    return parse


def in_units(seconds: float) -> str:
    """A number of seconds as a duration in the largest fitting unit: ``600.0`` → ``10m``."""
    fitting = (unit for unit, length in UNITS.items() if seconds and seconds % length == 0)
    unit = next(fitting, "ms" if seconds % 1 else "s")
    return f"{seconds / UNITS[unit]:g}{unit}"


def list_of(row: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Make a parser for a list whose items ``row`` parses."""

    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Expected("a list")
        return tuple(row(item) for item in value)

    return parse


def network(value: Any) -> Network:
    """Parse an IP network."""
    try:
        return ipaddress.ip_network(string(value))
    except ValueError:
        raise Expected("networks, as in 10.42.0.0/16") from None


def tag(value: Any) -> str:
    """Parse a tag, such as ``tag:k8s-pod``."""
    if not is_tag(string(value)):
        raise Expected("tags, as in tag:k8s-pod")
    return str(value)


def label(value: Any) -> str:
    """Parse a DNS label."""
    if not isinstance(value, str) or not is_label(value):
        raise Expected("a DNS label: 1 to 63 characters of a-z, 0-9 and -, not starting or ending with -")
    return value


def template(value: Any) -> str:
    """Parse a hostname template: each field at most once, and at least ``{workload}`` or ``{pod}``."""
    literals, names = string(value), ("workload", "namespace", "pod", "cluster")
    for name in names:
        literals = literals.replace(f"{{{name}}}", "", 1)
    tells_apart = "{workload}" in value or "{pod}" in value
    if not tells_apart or not re.fullmatch("[a-z0-9-]*", literals) or len(literals) > MAX_TEMPLATE_LITERAL:
        raise Expected(
            "a DNS label that contains {workload} or {pod}, and optionally {namespace} and {cluster}, each once"
        )
    return str(value)


def _map(value: Any, of: str, key: Callable[[Any], str], row: Callable[[Any], Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Expected(f"a map of {of}")
    result = {}
    for name, item in value.items():
        try:
            result[key(name)] = row(item)
        except Expected as e:
            raise e.within(name, item) from None
    return result


def namespaces(value: Any) -> Mapping[str, Mapping[str, str]]:
    """Parse annotations by namespace. ``policy.check`` checks that the annotations exist and their values are valid."""
    return _map(value, "namespaces", label, lambda row: _map(row, "annotations", string, _annotation))


def _annotation(value: Any) -> str:
    """Parse an annotation's value. An unquoted ``true`` is a YAML boolean, which is accepted because its meaning is clear."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        raise Expected("annotations as strings, in quotes")
    return value


class Permission(NamedTuple):
    """The patterns of tags and features that pods may ask for. None: the next less specific row decides."""

    tags: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None


ALWAYS = ("enabled", "required")
"""The features that every list of features includes. Only the word ``none`` forbids them."""

WORDS = {"all": Permission(("*",), ("*",)), "none": Permission((), ())}


def permissions(value: Any) -> Mapping[str, Permission]:
    """Parse permissions by pattern of namespaces."""
    return _map(value, "namespaces", lambda name: _pattern(name, r"[a-z0-9*?-]+", "namespaces"), _permission)


def _permission(value: Any) -> Permission:
    if isinstance(value, str) and value in WORDS:
        return WORDS[value]
    keys = Permission._fields
    if not isinstance(value, Mapping) or not set(value) <= set(keys):
        raise Expected("'all', 'none', or a map of tags and features, which are lists")
    given = {key: list_of(string)(patterns) for key, patterns in value.items()}
    tags, features = (given.get(key) for key in keys)
    for tag in tags or ():
        _pattern(tag, r"\*|tag:[A-Za-z0-9*?-]+", "tags")
    for feature in features or ():
        _pattern(feature, r"[a-z*?-]+", "features")
    return Permission(tags, None if features is None else tuple(dict.fromkeys((*ALWAYS, *features))))


def _pattern(value: Any, form: str, what: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(form, value):
        raise Expected(f"names of {what}, or patterns with * and ?")
    return value


def ports(value: Any) -> tuple[int, int]:
    """Parse a range of UDP ports to (first, last)."""
    first, dash, last = str(value).partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1024 <= int(first) <= int(last) <= 65535):
        raise Expected("a range of UDP ports, as in 21641-22640")
    return int(first), int(last)


def url(value: Any) -> str:
    """Parse an http or https URL without user and password. A final slash is removed."""
    expected = "an http or https URL without a user name, as in https://headscale.example.com"
    return _http_url(value, expected, lambda parts: "@" not in parts.netloc)


def proxy(value: Any) -> str:
    """Parse an http or https URL of a proxy, which may have a user name and a password, and no path. A final slash is removed."""
    expected = "an http or https URL without a path, as in http://proxy.example.com:3128"
    return _http_url(
        value, expected, lambda parts: parts.path in ("", "/") and not (parts.query or parts.fragment)
    )


def _http_url(value: Any, expected: str, is_valid: Callable[[SplitResult], bool]) -> str:
    """Parse an http or https URL with a host, and more that ``is_valid`` asks of its parts."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(string(value))
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and is_valid(parts)
        _ = parts.port
    except ValueError:
        valid = False
    if not valid or any(c.isspace() for c in value):
        raise Expected(expected)
    return str(value).rstrip("/")


def without_user(value: Any) -> Any:
    """A URL without its user name and password: errors and `config show` are read by others."""
    head, at, rest = str(value).rpartition("@")
    scheme, colon, _ = head.partition("://")
    return f"{scheme}://…@{rest}" if at and colon else value


def plain(value: Any) -> Any:
    """A Config's value as it would be written in the file: JSON types only, durations with a unit."""
    match value:
        case Permission():
            word = next((word for word, row in WORDS.items() if row == value), None)
            return word or {key: plain(given) for key, given in value._asdict().items() if given is not None}
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case float():
            return in_units(value)
        case (int() as first, int() as last):
            return f"{first}-{last}"
        case tuple():
            return [plain(item) for item in value]
    return value if isinstance(value, bool | int) else without_user(str(value))  # a proxy's has a password
