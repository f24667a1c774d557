"""Check the annotations and features that a host's configuration names against the annotation table."""

from __future__ import annotations

from fnmatch import filter as matching
from typing import TYPE_CHECKING

from .. import errors
from ..config import unknown
from . import annotations as table

if TYPE_CHECKING:
    from ..config import Config

FEATURES = tuple(row.name for row in table.TABLE if row.permission == "features")


def check(config: Config) -> None:
    """Check ``namespaces`` and ``permissions``. Raises InvalidConfiguration for an unknown annotation or feature, or an invalid value."""
    for namespace, layer in config.namespaces.items():
        for key, text in layer.items():
            _check_annotation(config.origin["namespaces"], f"namespaces.{namespace}", key, text)
    for pattern, row in config.permissions.items():
        for feature in row.features or ():
            if not matching(FEATURES, feature):
                where = config.origin["permissions"]
                raise unknown(where, feature, FEATURES, f"permissions.{pattern}.features")


def _check_annotation(where: str, layer: str, key: str, text: str) -> None:
    if key not in table.ROWS:
        raise unknown(where, key, tuple(table.ROWS), layer)
    try:
        table.parse(layer, {key: text})
    except (errors.InvalidAnnotation, errors.UnsupportedAnnotation) as e:
        reason = f"{errors.show(text)} is not what it takes"
        if isinstance(e, errors.UnsupportedAnnotation):
            reason = f"{errors.show(text)} is not supported by this version"
        raise errors.InvalidConfiguration(
            where=where, key=f"{layer}.{key}", reason=reason, expected=f"Expected {table.ROWS[key].takes}."
        ) from None
