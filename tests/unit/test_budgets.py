"""The cost of a pod that is not enrolled: modules, files, system calls, bytes and processes.

The baseline is the same Python with an empty program, measured in the same test. The benchmark measures times.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from builds import zipapp

from tailscale_cni.build.interpreter import fit_to_python
from tests.unit.test_fastpath import ENVIRON, PREV_RESULT, Host

MODULES = {"_json"}
FILES = 5
"""Includes the artefact, the directory and the file of ``_json``, and the record of the configuration."""
CALLS = 55
"""The measured maximum is 43, on CPython 3.10 to 3.13."""
VERBS = ("ADD", "DEL", "CHECK")
NOTHING = ("-I", "-S", "-c", "pass")


@pytest.fixture(params=["no configuration", "a configuration"])
def host(scratch: Path, request: pytest.FixtureRequest) -> Host:
    """A host with or without a config.yaml."""
    host = Host(Path(tempfile.mkdtemp(dir=scratch)))  # short enough for the path of a socket
    if request.param == "a configuration":
        host.configure("tags: [tag:a]\n")
    return host


@pytest.fixture
def plugin(interpreter: Path, tmp_path: Path) -> Path:
    """The artefact as ``install`` writes it for this Python."""
    path = tmp_path / "tailscale-cni"
    path.write_bytes(fit_to_python(zipapp(), str(interpreter)))
    path.chmod(0o755)
    return path


class Trace(NamedTuple):
    """The standard output of a traced program, and strace's lines for it and all its children: one per system call."""

    answer: bytes
    lines: list[str]

    @classmethod
    def of(cls, *argv: str | Path, environ: Mapping[str, str], entry: Mapping[str, Any]) -> Trace:
        """Trace a call, which must succeed."""
        strace = ["strace", "--follow-forks", "--quiet=all", "--signal=none", "--string-limit=0"]
        done = subprocess.run(
            [*strace, "--output=/dev/fd/2", *argv],
            input=json.dumps(entry).encode(),
            env=dict(environ),
            capture_output=True,
            timeout=120,
            check=True,
        )
        return cls(done.stdout, done.stderr.decode().splitlines())

    def named(self, *names: str) -> list[str]:
        """Returns the system calls with these names."""
        return [line for line in self.lines if re.match(rf"(\d+ +)?({'|'.join(names)})\(", line)]

    @property
    def opened(self) -> list[str]:
        """The system calls that opened a file."""
        return [line for line in self.named("open", "openat", "openat2", "creat") if " = -1 " not in line]


@pytest.mark.parametrize("verb", VERBS)
def test_a_pass_through_is_little_more_than_python(
    host: Host, plugin: Path, interpreter: Path, verb: str
) -> None:
    """A pass-through opens at most 5 files and makes at most 55 system calls more than an empty Python program."""
    environ = ENVIRON | {"CNI_COMMAND": verb}
    ours = Trace.of(plugin, environ=environ, entry=host.entry)
    floor = Trace.of(interpreter, *NOTHING, environ=environ, entry=host.entry)
    assert json.loads(ours.answer or b"null") == (PREV_RESULT if verb == "ADD" else None)
    assert len(ours.opened) - len(floor.opened) <= FILES, ours.opened
    assert len(ours.lines) - len(floor.lines) <= CALLS, ours.lines


@pytest.mark.parametrize("verb", VERBS)
def test_a_pass_through_writes_and_starts_nothing(host: Host, plugin: Path, verb: str) -> None:
    """A pass-through writes only its answer. It opens no file for writing and no socket, and starts no process or thread."""
    trace = Trace.of(plugin, environ=ENVIRON | {"CNI_COMMAND": verb}, entry=host.entry)
    written = [
        int(line.rpartition("= ")[2]) for line in trace.named("p?writev?2?(64)?", "sendfile", "splice")
    ]
    assert sum(written) == len(trace.answer)
    assert [line for line in trace.opened if re.search("O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", line)] == []
    changes = ("mkdir", "unlink", "rename", "link", "symlink", "chmod", "chown", "truncate", "utime", "mknod")
    starts = ("clone", "clone3", "fork", "vfork", "socket", "connect")
    assert trace.named(*(rf"f?{name}(at2?)?" for name in changes), *starts) == []
    assert len(trace.named("execve")) == 1  # strace starts the plugin


def test_a_pass_through_imports_next_to_nothing(host: Host, interpreter: Path) -> None:
    """After a pass-through, sys.modules has only the modules of a bare interpreter and ``_json``."""
    fastpath = zipapp().read_bytes().split(b"-c '", 1)[1].split(b"' '", 1)[0].decode()
    look = "import posix, sys\nposix._exit = lambda status: posix.write(2, ' '.join(sys.modules).encode()) and None\n"

    def modules(text: str) -> set[str]:
        done = subprocess.run(
            [interpreter, "-IS", "-c", look + text, "raise SystemExit"],
            input=json.dumps(host.entry).encode(),
            env=ENVIRON,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return set(done.stderr.decode().split())

    assert modules(fastpath) - modules("posix._exit(0)") == MODULES
