"""Claims on worker uids and UDP ports, which only one attachment may hold at a time.

A claim is a symbolic link that names its holder. The link is created atomically, so no lock is needed, and it still names its
holder after a crash. The holder's record is on disk before its first claim.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from .. import errors
from . import files

if TYPE_CHECKING:
    from collections.abc import Callable


class Claims:
    """The claims of one kind (``uid``, ``port``) on a host."""

    def __init__(self, state_dir: str, kind: str) -> None:
        """Creates the directory of the claims if it does not exist."""
        files.make_directory(f"{state_dir}/claims")
        self.root = f"{state_dir}/claims/{kind}"
        files.make_directory(self.root)

    def take(
        self,
        holder: str,
        span: tuple[int, int],
        key: str,
        usable: Callable[[int], bool],
        *,
        first: int = 0,
    ) -> int:
        """Claim the lowest free number of ``span`` (both ends included) that is ``usable``. ``first`` is tried before the others.

        Raises NothingFree, which names ``key``, the setting to change.
        """
        taken = self._numbers()
        wanted = [first] if span[0] <= first <= span[1] else []
        for number in itertools.chain(wanted, range(span[0], span[1] + 1)):
            if number not in taken and usable(number) and self._make(number, holder):
                return number
        raise errors.NothingFree(what=os.path.basename(self.root) + "s", first=span[0], last=span[1], key=key)

    def release(self, holder: str, number: int) -> None:
        """Release a holder's number. 0 releases all numbers of the holder: after a crash, its record may have no number."""
        for candidate in [number] if number else self._numbers():
            if self._holder(candidate) == holder:
                files.remove(f"{self.root}/{candidate}")

    def hand_on(self, holder: str, number: int, heir: str) -> None:
        """Transfer a holder's number to another holder on the same host."""
        temporary = f"{self.root}/.{heir}~"
        files.remove(temporary)  # from a call that was killed
        if self._holder(number) == holder:
            os.symlink(heir, temporary)
            os.rename(temporary, f"{self.root}/{number}")

    def held_by(self, holder: str) -> list[int]:
        """The numbers that a holder has claimed."""
        return sorted(number for number in self._numbers() if self._holder(number) == holder)

    def _holder(self, number: int) -> str | None:
        return files.read_link(f"{self.root}/{number}", "") or None

    def _numbers(self) -> set[int]:
        return {int(name) for name in os.listdir(self.root) if name.isdecimal()}

    def _make(self, number: int, holder: str) -> bool:
        try:
            os.symlink(holder, f"{self.root}/{number}")
        except FileExistsError:
            return False
        files.sync_directory(self.root)
        return True
