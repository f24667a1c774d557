"""This build: its own file, and its Go binaries.

This module imports nothing of ours but ``errors``, and what costs is imported where it is used (``archive`` for one): every
call comes by.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from . import errors


class _Artefact(NamedTuple):
    """What the artefact's beginning says of itself. ``site`` is None where it runs from the archive."""

    file: str
    build: str
    state_dir: str
    site: str | None


_this: _Artefact | None = None


def this_is(file: str, build: str, state_dir: str, site: str | None) -> None:
    """Called once by the artefact's first lines (packaging/front/onward.py): what runs here, and from where."""
    global _this  # noqa: PLW0603 - a process is one artefact
    _this = _Artefact(file, build, state_dir, site)


def executable() -> str:
    """This artefact's own file, absolute. Raises InputOutput in a source checkout, which is not one file."""
    if _this is None:
        raise _not_built("the artefact", "dist/tailscale-cni")
    return _this.file


def build_id() -> str:
    """The hash of all that is in this build, in hexadecimal; ``source`` in a source checkout."""
    return _this.build if _this else "source"


def version() -> str:
    """The version of tailscale-cni, as in 0.1.0."""
    from . import __version__

    return __version__


def worker_binary() -> str:
    """The worker, executable for any user. Raises InputOutput if it cannot be unpacked or is not built."""
    return _binary("worker")


def supervisor_binary() -> str:
    """The supervisor, likewise."""
    return _binary("supervisor")


def _binary(name: str) -> str:
    site = os.path.dirname(os.path.dirname(__file__))
    if _this and _this.site is None:
        site = _unpacked(_this)
    path = f"{site}/tailscale_cni/bin/{name}"
    if not os.path.isfile(path):
        raise _not_built(name, path)
    return path


def _unpacked(this: _Artefact) -> str:
    """Unpack now what could not be unpacked when this process began, or needed not to be."""
    from . import archive, errors

    try:
        return str(archive.unpack(this.file, this.build, this.state_dir))
    except OSError as e:
        reason = e.strerror or str(e)
        raise errors.InputOutput(
            what="the Go programs cannot be unpacked", reason=reason, path=this.state_dir
        ) from None


def _not_built(name: str, path: str) -> errors.Error:
    from . import errors

    return errors.InputOutput(
        what=f"{name} is not there", reason="this is a source checkout; run 'make zipapp'", path=path
    )
