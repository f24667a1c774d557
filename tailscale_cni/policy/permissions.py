"""What pod authors may ask for: others' access rules hang on a node's tags, name and features.

The host's configuration is its admin's and needs no permission. Annotations of pods do, and those of namespaces
that come from the API: whoever may write a pod can often write them too.
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
    from .annotations import Wish

BUILT_IN = Permission((), (*ALWAYS, "hostname", "ephemeral"))
"""Besides these, a pod may have the tags that it would get without asking, and its namespace's own."""


def demand(host: Config, namespace: str, asked: Mapping[str, Wish], own_tags: Iterable[str]) -> None:
    """Raises NotPermitted for a wish that the pods of the namespace may not have."""
    allowed = granted(host.permissions, namespace)
    for name, wish in asked.items():
        wanted = wish.value if wish.row.permission == "tags" else (name,)
        free = (*own_tags, namespace_tag(namespace)) if wish.row.permission == "tags" else ()
        patterns = getattr(allowed, wish.row.permission)
        refused = [one for one in wanted if one not in free and not _any(patterns, one)]
        if refused:
            row = {wish.row.permission: [*patterns, *refused]}
            raise errors.NotPermitted(
                pod=wish.who,
                annotation=wish.row.key,
                value=errors.show(wish.text),
                namespace=namespace,
                refused=", ".join(refused),
                line=_line(host, namespace, row),
                where=_where(host),
            )


def granted(permissions: Mapping[str, Permission], namespace: str) -> Permission:
    """What a namespace's pods may ask for: of tags and of features what the most specific row says that says it.

    A name is more specific than a pattern, and a pattern than one with fewer characters of its own.
    """
    rows = [(pattern, row) for pattern, row in permissions.items() if fnmatchcase(namespace, pattern)]
    rows.sort(key=lambda row: (row[0] == namespace, sum(c not in "*?" for c in row[0])), reverse=True)
    tags = (row.tags for _, row in rows if row.tags is not None)
    features = (row.features for _, row in rows if row.features is not None)
    return Permission(next(tags, BUILT_IN.tags), next(features, BUILT_IN.features))


def namespace_tag(namespace: str) -> str:
    """The tag that every pod of a namespace may have."""
    return f"tag:ns-{namespace}"


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _line(host: Config, namespace: str, row: Mapping[str, list[str]]) -> str:
    """What an admin pastes: the whole key where there is none, else the row below it, with what it grants now."""
    there = host.permissions.get(namespace, Permission())._asdict()
    kept = {key: list(patterns) for key, patterns in there.items() if patterns is not None}
    text = json.dumps({namespace: {**kept, **row}})
    return f"{text[1:-1]} (below permissions)" if host.permissions else f"permissions: {text}"


def _where(host: Config) -> str:
    where = host.origin["permissions"]
    return host.config_file if where == DEFAULT else where
