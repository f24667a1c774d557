"""Hostnames: pods of a namespace that want the same name get ``web``, ``web-1``, ``web-2``. An identity may be retained for a number.

``stateDir/names`` has a directory per namespace and name, which is also the lock. In it, each number is a link to the record of the
attachment that has the number. A second link, ``N.keys``, names the identity that is retained for the number. The record is on disk
before the link, and is removed after the link, so a dangling link holds no number.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING

from .. import errors
from . import files
from .attachments import LOCK_TIMEOUT, Attachment, Attachments

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NUMBERS = 10_000
KEYS_SUFFIX = ".keys"


def every(store: Attachments) -> list[Hostname]:
    """All names of which a pod has a number, or for which an identity is retained."""
    root = f"{store.state_dir}/names"
    found = (
        directory.partition(".") for directory in sorted(os.listdir(root) if os.path.isdir(root) else [])
    )
    return [Hostname(store, namespace, name) for namespace, _, name in found]


class Hostname:
    """One name of a namespace, on this host. Callers use every method within ``with name.locked():``."""

    def __init__(self, store: Attachments, namespace: str, name: str) -> None:
        """``namespace`` and ``name`` are DNS labels. ``namespace`` is empty for a container that is not a pod."""
        self.store, self.namespace, self.name = store, namespace, name
        self.root = f"{store.state_dir}/names/{namespace}.{name}"

    @classmethod
    def of(cls, attachment: Attachment) -> Hostname:
        """The name that an attachment wants."""
        return cls(Attachments(attachment.state_dir), attachment.namespace, attachment.name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock. Callers must not hold it while they wait for the network. Raises Busy."""
        with files.locked(self.root, LOCK_TIMEOUT, f"the name {os.path.basename(self.root)}", create=True):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # a pod still has a number, or an identity is retained
                    os.rmdir(self.root)

    def take(self, attachment: Attachment) -> int:
        """Give the attachment the number that it wants if that is free, else the lowest free number. Raises NothingFree.

        A pod that wants a number never gets a different number for which an identity is retained, because that identity is another pod's.
        """
        taken, wanted = set(self.holders()), attachment.wanted
        if wanted is not None:
            taken |= set(self.all_retained()) - {wanted}
        for number in itertools.chain([] if wanted is None else [wanted], range(MAX_NUMBERS)):
            if number not in taken:
                self.give(number, attachment)
                return number
        raise errors.NothingFree(what="numbers", first=0, last=MAX_NUMBERS - 1, key="hostnameTemplate")

    def give(self, number: int, attachment: Attachment) -> None:
        """Give the attachment a number, even if another attachment has the number."""
        self._link(f"{number}", attachment.record)

    def free(self, number: int) -> None:
        """Free a number, whichever attachment has it."""
        files.remove(f"{self.root}/{number}")

    def held_by(self, attachment: Attachment) -> list[int]:
        """The numbers of an attachment; more than one while the attachment moves to a lower number."""
        return sorted(n for n, record in self._records().items() if record == attachment.record)

    def holders(self) -> dict[int, Attachment]:
        """The attachments that have a number, by number."""
        found = {n: self.store.at(record) for n, record in self._records().items()}
        return {n: attachment for n, attachment in found.items() if attachment}

    def retained(self, number: int) -> str:
        """The key of the identity that is retained for a number; empty if there is none."""
        key = files.read_link(f"{self.root}/{number}{KEYS_SUFFIX}", "")
        return key if key.isalnum() else ""  # it becomes part of a path

    def all_retained(self) -> dict[int, str]:
        """The keys of the retained identities, by number."""
        found = (entry.removesuffix(KEYS_SUFFIX) for entry in self._entries() if entry.endswith(KEYS_SUFFIX))
        return {int(number): self.retained(int(number)) for number in found if number.isdecimal()}

    def retain(self, number: int, identity: str) -> None:
        """Retain an identity for a number. The next pods with that number use the identity."""
        self._link(f"{number}{KEYS_SUFFIX}", identity)

    def stop_retaining(self, number: int) -> None:
        """Stop retaining an identity for a number. A power cut does not undo this."""
        files.remove(f"{self.root}/{number}{KEYS_SUFFIX}")
        files.sync_directory(self.root)

    def _records(self) -> dict[int, str]:
        names = [name for name in self._entries() if name.isdecimal()]
        return {int(name): files.read_link(f"{self.root}/{name}", "") for name in names}

    def _entries(self) -> list[str]:
        """The entries of the name's directory; none if the directory has just been removed."""
        try:
            return os.listdir(self.root)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _link(self, name: str, target: str) -> None:
        """Create or replace a link atomically."""
        try:
            os.symlink(target, f"{self.root}/{name}")
        except FileExistsError:
            self._change(name, target)
        files.sync_directory(self.root)

    def _change(self, name: str, target: str) -> None:
        temporary = f"{self.root}/.{name}~"
        files.remove(temporary)  # from a call that was killed
        os.symlink(target, temporary)
        os.rename(temporary, f"{self.root}/{name}")
