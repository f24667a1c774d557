"""Read the conflist entry and ``config.yaml``, validate them, and combine them to one Config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import errors
from .fastpath_note import fingerprint
from .parsers import Expected, Unsupported, without_user
from .settings import DEFAULT, ENTRY, PROTOCOL_KEYS, ROOTS, SETTINGS, Config, Setting, attribute

if TYPE_CHECKING:
    from collections.abc import Mapping


def load_config(entry: Mapping[str, Any]) -> Config:
    """The Config of a conflist entry and of the configuration file that it names.

    Raises InvalidConfiguration, UnsupportedField, which name the key and its file; InputOutput if the file cannot be read.
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
    """``load_config`` for cleaning up. If the configuration is broken, the defaults and the entry's directories must do."""
    try:
        return load_config(entry)
    except errors.Error:
        return load_config(
            {row.key: entry[row.key] for row in ROOTS[:2] if row.key in entry} | {"configFile": "/dev/null"}
        )


def _parse(rows: tuple[Setting, ...], where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the values in ``given`` by the rows of the table. ``where`` names their source in errors."""
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
            reason = f"{errors.show(without_user(e.value if e.path else value))} is not what it takes"
            raise errors.InvalidConfiguration(
                where=where, key=part, reason=reason, expected=f"Expected {e}."
            ) from None
    return values


def _check_template(values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Check that a template with ``{cluster}`` has a cluster name. Raises InvalidConfiguration."""
    if "{cluster}" in values["hostnameTemplate"] and not values["clusterName"]:
        raise errors.InvalidConfiguration(
            where=origin["hostnameTemplate"],
            key="hostnameTemplate",
            reason="it contains {cluster}, but clusterName is not set",
            expected="Set clusterName.",
        )


def _check_credentials(values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Check that there is only one control plane's credential. Raises InvalidConfiguration."""
    if values["oauthClientSecretFile"] and values["headscaleAPIKeyFile"]:
        raise errors.InvalidConfiguration(
            where=origin["headscaleAPIKeyFile"],
            key="headscaleAPIKeyFile",
            reason="oauthClientSecretFile is also set",
            expected="Set oauthClientSecretFile for Tailscale, or headscaleAPIKeyFile for Headscale.",
        )


def unknown(where: str, key: object, known: tuple[str, ...], within: str = "") -> errors.InvalidConfiguration:
    """The error for an unknown key. It suggests the most similar known key."""
    from difflib import get_close_matches

    nearest = get_close_matches(str(key), known, 1)
    return errors.InvalidConfiguration(
        where=f"{where}: {within}" if within else where,
        key=errors.show(key),
        reason="this key does not exist",
        expected=f"Did you mean {nearest[0]}?" if nearest else f"The keys are {', '.join(known)}.",
    )


def read(path: str) -> Mapping[str, Any]:
    """The map in a configuration file; empty if there is no file. Raises InvalidConfiguration, InputOutput."""
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
    """Parse a YAML document. Duplicate keys are an error, because PyYAML would silently take the last.

    Raises ValueError, RecursionError.
    """
    import yaml  # takes 15 ms, so only if there is a file

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise ValueError(f"the key {twice} is set twice{node.start_mark}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as e:
        raise ValueError(str(e)) from None
