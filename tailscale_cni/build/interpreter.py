"""The artefact for a host whose Python is known: the kernel starts that interpreter directly, instead of a shell that looks for one."""

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
"""The beginning of an artefact that is fitted to a host's Python. To Python, the ``#!`` line is a comment. Zero bytes separate four parts:
this text with the first line; bootstrap.py; fastpath.py; the bytecode of fastpath.py behind Python's magic number, and the artefact."""

BEGINNING = 32768
"""Bytes at the start of an artefact that contain everything in front of the zip archive."""


def has_build_id(path: str, build: str) -> bool:
    """Whether the file at ``path`` is an artefact with that build ID. False if it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return f'BUILD_ID = "{build}"'.encode() in file.read(BEGINNING)
    return False


def fit_to_python(file: Path, python: str | None) -> bytes:
    """The bytes of the artefact ``file``, with a ``#!`` line for the interpreter ``python`` in front.

    Behind that line are the texts that ``launcher.sh`` would pass to an interpreter. The fast path is there as bytecode too, for
    interpreters with this interpreter's magic number. If ``python`` is None or too long for a first line, the result is the artefact as
    it was built. The caller should choose a path that stays valid when Python is upgraded.
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
