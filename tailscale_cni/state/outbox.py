"""The outbox: the nodes that the control plane has not deleted yet.

``stateDir/outbox`` has a file per node. The file is on disk before the node's keys are removed, and is removed when the control plane
has deleted the node. A file that cannot be read stays, because a newer version may have written it, and each call warns about it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from . import files, records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .attachments import Attachment

APIS = ("tailscale", "headscale")
"""Control planes whose API can delete a node."""


class Deletion(NamedTuple):
    """A node to delete, and the API that deletes it, with the settings of the node's attachment."""

    node_id: str
    node_key: str
    minter: str
    credential_file: str
    api_url: str
    headscale_user: str = ""
    auth_key_seconds: int = 600
    who: str = "a node"
    """The pod or container of the node, for messages."""
    proxy_url: str = ""
    version: int = records.VERSION
    unknown: str = ""
    """Fields of a newer version that this version does not know (``records``)."""

    @classmethod
    def of(cls, attachment: Attachment, node_id: str, node_key: str) -> Deletion:
        """The deletion of an attachment's node."""
        return cls(
            node_id=node_id,
            node_key=node_key,
            minter=attachment.minter,
            credential_file=attachment.credential_file,
            api_url=attachment.api_url,
            headscale_user=attachment.headscale_user,
            auth_key_seconds=attachment.auth_key_seconds,
            proxy_url=attachment.proxy_url,
            who=attachment.display_name,
        )

    def document(self) -> dict[str, Any]:
        """The deletion as a JSON object, as it is on disk.

        Version 0.1.0 skips a file with an unknown field. So ``version`` is left out while it is 1, and an empty ``proxy_url`` is left out.
        """
        document = records.document(self)
        if self.version == 1:
            del document["version"]
        if not self.proxy_url:
            del document["proxy_url"]
        return document


def decode(document: object) -> Deletion:
    """Parse a deletion from the disk. Raises ValueError if no API can delete the node, because the node must not count as deleted then."""
    deletion = records.decode(Deletion, document, lenient=True)
    if deletion.minter not in APIS:
        raise ValueError(f"minter is {errors.show(deletion.minter)}, which this version does not know")
    if not (deletion.node_id and deletion.node_key):
        raise ValueError("it does not say which node")
    return deletion


class Outbox:
    """The deletions of one host."""

    def __init__(self, state_dir: str) -> None:
        """Creates no directory before there is a deletion."""
        self.state_dir = state_dir
        self.root = f"{state_dir}/outbox"

    def add(self, deletion: Deletion) -> None:
        """Write a deletion to disk. The same deletion always has the same file. Raises InputOutput, UnsafeDirectory."""
        files.make_directory(self.root)
        path = self._path(deletion)
        known = next((one for name, one in self.items() if name == os.path.basename(path)), None)
        if known:
            deletion = deletion._replace(version=known.version, unknown=known.unknown)
        elif os.path.lexists(path):
            records.set_aside(self.state_dir, path)
        files.write(path, records.dump(deletion.document()))

    def all(self) -> Iterator[Deletion]:
        """All deletions that can be read."""
        return (deletion for _, deletion in self.items())

    def items(self) -> Iterator[tuple[str, Deletion]]:
        """All deletions that can be read, each with its file name. A file that cannot be read does not affect the others."""
        for name in sorted(os.listdir(self.root)) if os.path.isdir(self.root) else ():
            if not name.endswith(".json"):
                continue
            path = f"{self.root}/{name}"
            try:
                document = files.read_json(path)
                if document is not None:
                    yield name, decode(document)
            except (errors.Error, ValueError) as e:
                reason = e if isinstance(e, errors.Error) else errors.UnreadableState(path=path, reason=e)
                records.warn(f"a node that is to be deleted may stay in the tailnet: {reason}")

    def done(self, name: str) -> None:
        """Remove a file, because the control plane has deleted its node."""
        files.remove(f"{self.root}/{name}")

    def _path(self, deletion: Deletion) -> str:
        text = f"{deletion.api_url}\0{deletion.node_id}\0{deletion.node_key}".encode()
        return f"{self.root}/{files.digest(text, 12)}.json"
