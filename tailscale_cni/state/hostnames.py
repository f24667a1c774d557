"""Hostnames: pods of a namespace that want the same name get ``web``, ``web-1``, ``web-2``, and may find keys that are kept for it.

``stateDir/names`` has a directory per namespace and name, which is also the lock. In it, each number is a link to the record of the
attachment that has it. A second link, ``N.keys``, names the identity that is kept for the number. The record is on the disk before the
link, and is removed after it: a link that leads nowhere holds nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING

from .. import errors
from . import files
from .attachments import LOCK_SECONDS, Attachment, Attachments

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 10_000
KEPT = ".keys"


def every(store: Attachments) -> list[Name]:
    """All names of which a pod has a number, or for which an identity is kept."""
    root = f"{store.state_dir}/names"
    found = (
        directory.partition(".") for directory in sorted(os.listdir(root) if os.path.isdir(root) else [])
    )
    return [Name(store, namespace, name) for namespace, _, name in found]


class Name:
    """One name of a namespace, on this host. Everything is done in ``with name.locked():``."""

    def __init__(self, store: Attachments, namespace: str, name: str) -> None:
        """``namespace`` and ``name`` are DNS labels; ``namespace`` is empty for a container that is no pod."""
        self.store, self.namespace, self.name = store, namespace, name
        self.root = f"{store.state_dir}/names/{namespace}.{name}"

    @classmethod
    def of(cls, attachment: Attachment) -> Name:
        """The name that an attachment wants."""
        return cls(Attachments(attachment.state_dir), attachment.namespace, attachment.name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, but never while waiting for the network. Raises Busy."""
        with files.locked(self.root, LOCK_SECONDS, f"the name {os.path.basename(self.root)}", create=True):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # somebody still has a number, or keys
                    os.rmdir(self.root)

    def take(self, attachment: Attachment) -> int:
        """Give the attachment the number that it wants, if that is free, else the lowest free one. Raises NothingFree.

        A pod that wants a number never gets another one for which an identity is kept: that is for another pod.
        """
        taken, wanted = set(self.holders()), attachment.wanted
        if wanted is not None:
            taken |= set(self.all_kept()) - {wanted}
        for number in itertools.chain([] if wanted is None else [wanted], range(MOST)):
            if number not in taken:
                self.give(number, attachment)
                return number
        raise errors.NothingFree(what="numbers", first=0, last=MOST - 1, key="hostnameTemplate")

    def give(self, number: int, attachment: Attachment) -> None:
        """Give the attachment a number, even if another one has it."""
        self._link(f"{number}", attachment.record)

    def free(self, number: int) -> None:
        """Take a number from whoever has it."""
        files.remove(f"{self.root}/{number}")

    def held_by(self, attachment: Attachment) -> list[int]:
        """The numbers of an attachment; more than one while it moves to a better one."""
        return sorted(n for n, record in self._records().items() if record == attachment.record)

    def holders(self) -> dict[int, Attachment]:
        """The attachments that have a number, by number."""
        found = {n: self.store.at(record) for n, record in self._records().items()}
        return {n: attachment for n, attachment in found.items() if attachment}

    def kept(self, number: int) -> str:
        """The key of the identity that is kept for a number; empty if there is none."""
        key = files.read_link(f"{self.root}/{number}{KEPT}", "")
        return key if key.isalnum() else ""  # it becomes part of a path

    def all_kept(self) -> dict[int, str]:
        """The keys of the identities that are kept, by number."""
        found = (entry.removesuffix(KEPT) for entry in self._entries() if entry.endswith(KEPT))
        return {int(number): self.kept(int(number)) for number in found if number.isdecimal()}

    def keep(self, number: int, identity: str) -> None:
        """Keep an identity for a number: the pods that get the number are that node."""
        self._link(f"{number}{KEPT}", identity)

    def drop(self, number: int) -> None:
        """Keep no identity for a number any more; a power cut does not bring it back."""
        files.remove(f"{self.root}/{number}{KEPT}")
        files.sync_directory(self.root)

    def _records(self) -> dict[int, str]:
        names = [name for name in self._entries() if name.isdecimal()]
        return {int(name): files.read_link(f"{self.root}/{name}", "") for name in names}

    def _entries(self) -> list[str]:
        """The names in its directory; none if it has just been removed."""
        try:
            return os.listdir(self.root)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _link(self, name: str, target: str) -> None:
        """Make or change a link in one step."""
        try:
            os.symlink(target, f"{self.root}/{name}")
        except FileExistsError:
            self._change(name, target)
        files.sync_directory(self.root)

    def _change(self, name: str, target: str) -> None:
        temporary = f"{self.root}/.{name}~"
        files.remove(temporary)  # of a call that was killed
        os.symlink(target, temporary)
        os.rename(temporary, f"{self.root}/{name}")
