"""This build: its own file, its hash, its version.

Every CNI call that leaves the fast path imports this module, so it imports nothing but ``errors``, and that only to fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .. import errors


class Artefact(NamedTuple):
    """The running artefact: its path, build ID and stateDir. ``site`` is its unpacked site-packages; None if it runs from the archive."""

    file: str
    build: str
    state_dir: str
    site: str | None


_running: Artefact | None = None


def set_running(file: str, build: str, state_dir: str, site: str | None) -> None:
    """Record which artefact this process runs. The bootstrap (packaging/front/) calls it once, before anything else."""
    global _running  # noqa: PLW0603 - a process runs one artefact
    _running = Artefact(file, build, state_dir, site)


def running() -> Artefact | None:
    """The artefact that this process runs; None in a source checkout."""
    return _running


def executable() -> str:
    """The absolute path of the running artefact. Raises InputOutput in a source checkout, which is not one file."""
    if _running is None:
        raise not_built("the artefact", "dist/tailscale-cni")
    return _running.file


def build_id() -> str:
    """The hash of everything in this build, in hexadecimal; ``source`` in a source checkout."""
    return _running.build if _running else "source"


def version() -> str:
    """The version of tailscale-cni, as in 0.1.0."""
    from .. import __version__

    return __version__


def not_built(name: str, path: str) -> errors.InputOutput:
    """The error for a file that only a built artefact has."""
    from .. import errors

    return errors.InputOutput(
        what=f"{name} is not there", reason="this is a source checkout; run 'make zipapp'", path=path
    )
