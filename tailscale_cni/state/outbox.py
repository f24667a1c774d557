"""The outbox: what the control plane has not been told yet.

A file per node that it is to forget, on the disk before the node's keys are gone; removed when it has been told.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from .. import errors
from . import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .attachments import Attachment


class Farewell(NamedTuple):
    """A node that is to be forgotten, and whom to tell. The fields from ``minter`` on are the attachment's."""

    node_id: str
    node_key: str
    who: str
    minter: str
    credential_file: str
    api_url: str
    headscale_user: str
    auth_key_seconds: int
    proxy_url: str = ""

    @classmethod
    def of(cls, attachment: Attachment, node_id: str, node_key: str) -> Farewell:
        """From a node that an attachment had."""
        chosen = (getattr(attachment, name) for name in cls._fields[3:])
        return cls(node_id, node_key, attachment.who, *chosen)


class Outbox:
    """The farewells of one host."""

    def __init__(self, state_dir: str) -> None:
        """Nothing is made before there is one."""
        self.root = f"{state_dir}/outbox"

    def post(self, farewell: Farewell) -> None:
        """Write one down; the same one again is the same. Raises InputOutput."""
        files.make_directory(self.root)
        files.write_json(self._path(farewell), _document(farewell))

    def all(self) -> Iterator[Farewell]:
        """Every one. A file that cannot be read disturbs no other."""
        names = sorted(os.listdir(self.root)) if os.path.isdir(self.root) else []
        for name in names:
            with contextlib.suppress(errors.UnreadableState, TypeError):
                document = files.read_json(f"{self.root}/{name}") if name.endswith(".json") else None
                if document:
                    yield Farewell(**document)

    def said(self, farewell: Farewell) -> None:
        """It has been said, or nobody is left to be forgotten."""
        files.remove(self._path(farewell))

    def _path(self, farewell: Farewell) -> str:
        text = f"{farewell.api_url}\0{farewell.node_id}\0{farewell.node_key}".encode()
        return f"{self.root}/{files.digest(text, 12)}.json"


def _document(farewell: Farewell) -> dict[str, object]:
    """As JSON. Without a proxy, a version that knows of none can read it."""
    document = farewell._asdict()
    if not farewell.proxy_url:
        del document["proxy_url"]
    return document
