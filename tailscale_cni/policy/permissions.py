"""What pod authors may ask for. Permissions exist because the tailnet's access rules depend on a node's tags, name and features.

The host's configuration is the admin's and needs no permission. Annotations of pods need permission. So do annotations of namespaces
that come from the cluster's API, because whoever may create a pod can often edit its namespace too.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .. import errors
from ..config import ALWAYS, DEFAULT, Permission

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..config import Config
    from .annotations import Asked

BUILT_IN = Permission((), (*ALWAYS, "hostname", "ephemeral"))
"""What is permitted without any setting. A pod may also ask for the tags that it gets anyway, and for its namespace's own tag."""


def check_permitted(
    config: Config, namespace: str, asked: Mapping[str, Asked], own_tags: Iterable[str]
) -> None:
    """Check that the pods of a namespace may ask for these annotations, by short name.

    ``own_tags`` are the tags that the pod gets without asking; it may always ask for them. Raises NotPermitted.
    """
    allowed = granted(config.permissions, namespace)
    for name, annotation in asked.items():
        kind = annotation.row.permission
        wanted = annotation.value if kind == "tags" else (name,)
        free = (*own_tags, namespace_tag(namespace)) if kind == "tags" else ()
        patterns = getattr(allowed, kind)
        refused = [value for value in wanted if value not in free and not _matches_any(patterns, value)]
        if refused:
            raise errors.NotPermitted(
                pod=annotation.who,
                annotation=annotation.row.key,
                value=errors.show(annotation.text),
                namespace=namespace,
                refused=", ".join(refused),
                line=_line(config, namespace, {kind: [*patterns, *refused]}),
                where=_where(config),
            )


def granted(permissions: Mapping[str, Permission], namespace: str) -> Permission:
    """What the pods of a namespace may ask for. Tags and features are each taken from the most specific row that states them.

    An exact name is more specific than a pattern. Of two patterns, the one with more literal characters is more specific.
    """
    rows = [(pattern, row) for pattern, row in permissions.items() if fnmatchcase(namespace, pattern)]
    rows.sort(key=lambda row: (row[0] == namespace, sum(c not in "*?" for c in row[0])), reverse=True)
    tags = (row.tags for _, row in rows if row.tags is not None)
    features = (row.features for _, row in rows if row.features is not None)
    return Permission(next(tags, BUILT_IN.tags), next(features, BUILT_IN.features))


def namespace_tag(namespace: str) -> str:
    """The tag of a namespace, which each of its pods may ask for."""
    return f"tag:ns-{namespace}"


def _matches_any(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _line(config: Config, namespace: str, row: Mapping[str, list[str]]) -> str:
    """The YAML line that an admin pastes to permit ``row``.

    Without a ``permissions`` key it is that whole key. Otherwise it is the namespace's row, which includes what the row grants now.
    """
    there = config.permissions.get(namespace, Permission())._asdict()
    kept = {key: list(patterns) for key, patterns in there.items() if patterns is not None}
    text = json.dumps({namespace: {**kept, **row}})
    return f"{text[1:-1]} (below permissions)" if config.permissions else f"permissions: {text}"


def _where(config: Config) -> str:
    where = config.origin["permissions"]
    return config.config_file if where == DEFAULT else where
