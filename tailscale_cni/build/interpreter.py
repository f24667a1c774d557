"""The artefact fitted to a host's Python: the kernel starts that interpreter, and no shell looks for one first."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_FIRST_LINE = 127
"""Bytes of a `#!` line that Linux before 5.1 reads: execve(2)."""

FIRST_LINE = r"""-IScimport sys;p=open(sys.argv[1],"rb").read(32768).split(b"\0",3);exec(p[0])"""
ENTER = b"""
sys.argv.insert(1, p[1].decode())
magic = getattr(sys.modules.get("_frozen_importlib_external"), "MAGIC_NUMBER", None)
if magic and p[3].startswith(magic):
    import marshal
    p[2] = marshal.loads(p[3][4:])
exec(p[2])
"""
"""How an artefact that is fitted to a host begins, and goes on (to Python, a first line is a comment). It is in four parts with a
zero byte between them: this; bootstrap.py; fastpath.py; and the fast path's bytecode with Python's own mark of which bytecode it is."""

BEGINNING = 32768
"""Bytes, of which those in front of the archive are the first ones."""


def has_build_id(path: str, build: str) -> bool:
    """Whether there is an artefact of that build at ``path``, by what its beginning says."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return f'BUILD_ID = "{build}"'.encode() in file.read(BEGINNING)
    return False


def fit_to_python(file: Path, python: str | None) -> bytes:
    """An artefact for a host whose Python is known: the kernel starts that one, and no shell looks for one first.

    The same bytes, behind what `launcher.sh` hands to an interpreter; of the fast path also what this interpreter compiled it to, for those
    that run the same bytecode. The artefact as it was built where ``python`` is None, or too long for a first line. A name that
    outlives an upgrade of Python is for the caller to choose.
    """
    import importlib.util
    import marshal
    import zipfile

    data = file.read_bytes()
    built = data[data.index(b"#!/bin/sh\n") :]
    first = f"#!{python} {FIRST_LINE}".encode()
    if not python or len(first) > MAX_FIRST_LINE:
        return built
    with zipfile.ZipFile(file) as archive:
        fastpath, bootstrap = archive.read("fastpath.py"), archive.read("bootstrap.py")
    compiled = importlib.util.MAGIC_NUMBER + marshal.dumps(
        compile(fastpath, "fastpath.py", "exec", optimize=0)
    )
    return b"\0".join((first + ENTER, bootstrap, fastpath, compiled + built))
