"""Read the conflist entry and ``config.yaml``, check them once, and make one Config of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import errors
from .fastpath_note import fingerprint
from .parsers import Expected, Unsupported
from .settings import DEFAULT, ENTRY, PROTOCOL_KEYS, ROOTS, SETTINGS, Config, Setting, attribute

if TYPE_CHECKING:
    from collections.abc import Mapping


def load_config(entry: Mapping[str, Any]) -> Config:
    """From a conflist entry, and the file that it names.

    Raises InvalidConfiguration, which names the key and where it stands.
    """
    own = {key: value for key, value in entry.items() if key not in PROTOCOL_KEYS and "/" not in key}
    roots = _parse(ROOTS, ENTRY, {row.key: own.pop(row.key) for row in ROOTS if row.key in own})
    defaults = {row.key: row.default for row in (*ROOTS, *SETTINGS)}
    file = (defaults | roots)["configFile"]
    seen = fingerprint(file)
    layers = (
        (DEFAULT, defaults),
        (file, _parse(SETTINGS, file, read(file))),
        (ENTRY, roots | _parse(SETTINGS, ENTRY, own)),
    )
    values = {key: value for _, layer in layers for key, value in layer.items()}
    origin = {key: where for where, layer in layers for key in layer}
    _check_template(values, origin)
    _check_credentials(values, origin)
    return Config(**{attribute(key): value for key, value in values.items()}, origin=origin, seen=seen)


def load_for_cleanup(entry: Mapping[str, Any]) -> Config:
    """``load_config`` for verbs that clean up: a broken configuration must not stop them, and the roots are all that they need."""
    try:
        return load_config(entry)
    except errors.Error:
        return load_config(
            {row.key: entry[row.key] for row in ROOTS[:2] if row.key in entry} | {"configFile": "/dev/null"}
        )


def _parse(rows: tuple[Setting, ...], where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    table = {row.key: row for row in rows}
    values = {}
    for key, value in given.items():
        if key not in table:
            raise unknown(where, key, tuple(table))
        try:
            values[key] = table[key].parse(value)
        except Unsupported as e:
            raise errors.UnsupportedField(
                where=where, key=key, value=errors.show(value), expected=e
            ) from None
        except Expected as e:
            part = errors.show(".".join([key, *e.path])).strip("'")
            reason = f"{errors.show(_without_user(e.value if e.path else value))} is not what it takes"
            raise errors.InvalidConfiguration(
                where=where, key=part, reason=reason, expected=f"Expected {e}."
            ) from None
    return values


def _check_template(values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """A part of the name must be there."""
    if "{cluster}" in values["hostnameTemplate"] and not values["clusterName"]:
        raise errors.InvalidConfiguration(
            where=origin["hostnameTemplate"],
            key="hostnameTemplate",
            reason="it contains {cluster}, but clusterName is not set",
            expected="Set clusterName.",
        )


def _check_credentials(values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """There is one control plane."""
    if values["oauthClientSecretFile"] and values["headscaleAPIKeyFile"]:
        raise errors.InvalidConfiguration(
            where=origin["headscaleAPIKeyFile"],
            key="headscaleAPIKeyFile",
            reason="oauthClientSecretFile is also set",
            expected="Set oauthClientSecretFile for Tailscale, or headscaleAPIKeyFile for Headscale.",
        )


def _without_user(value: Any) -> Any:
    """A URL with a password in it is refused, and what is refused is shown to pod authors."""
    head, at, rest = str(value).rpartition("@")
    scheme, colon, _ = head.partition("://")
    return f"{scheme}://…@{rest}" if at and colon else value


def unknown(where: str, key: object, known: tuple[str, ...], within: str = "") -> errors.InvalidConfiguration:
    """The error for a key that does not exist, which names the nearest one that does."""
    from difflib import get_close_matches

    nearest = get_close_matches(str(key), known, 1)
    return errors.InvalidConfiguration(
        where=f"{where}: {within}" if within else where,
        key=errors.show(key),
        reason="this key does not exist",
        expected=f"Did you mean {nearest[0]}?" if nearest else f"The keys are {', '.join(known)}.",
    )


def read(path: str) -> Mapping[str, Any]:
    """The map in a configuration file; an empty one if there is none. Raises InvalidConfiguration, InputOutput."""
    try:
        with open(path, encoding="utf-8") as f:
            text = f.read()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as e:
        raise errors.InputOutput(
            what=f"the configuration {path} cannot be read", reason=e, path=path
        ) from None
    try:
        document = _yaml(text)
    except (RecursionError, ValueError) as e:
        reason = errors.show(" ".join(str(e).split()))
        raise errors.InvalidConfiguration(
            where=path, key="the file", reason=reason, expected="It must be YAML."
        ) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise errors.InvalidConfiguration(
            where=path,
            key="the file",
            reason="it is not a map",
            expected="Write key: value.",
        )
    return document


def _yaml(text: str) -> Any:
    """A YAML document. A key that is there twice is an error: YAML itself takes the last, and drops the other silently.

    Raises ValueError, RecursionError.
    """
    import yaml  # 15 ms: only where there is a file

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise ValueError(f"the key {twice} is set twice{node.start_mark}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - it is a safe one
    except yaml.YAMLError as e:
        raise ValueError(str(e)) from None
