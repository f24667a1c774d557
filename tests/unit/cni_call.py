"""CNI calls for tests: in this process with a verb of the test, or in a separate process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tailscale_cni.cni import dispatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailscale_cni.cni.request import Request

ROOT = Path(__file__).parents[2]

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {"ADD": "0.3.0", "DEL": "0.3.0", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""The versions in which the CNI specification adds each verb. A test that read the product's table would prove nothing."""

ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "8f2c41",
    "CNI_NETNS": "/run/netns/cni-1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=media;K8S_POD_NAME=plex-0;K8S_POD_INFRA_CONTAINER_ID=8f2c41;"
        "K8S_POD_UID=0a4ce9e4-6a0a-4a5c-9d21-9a5f7a0c8b11"
    ),
}

PREV_RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "cni0", "mac": "00:11:22:33:44:55"},
        {"name": "veth3243", "mac": "55:44:33:22:11:11"},
        {"name": "eth0", "mac": "99:88:77:66:55:44", "sandbox": "/run/netns/cni-1"},
    ],
    "ips": [
        {"address": "10.42.0.7/24", "gateway": "10.42.0.1", "interface": 2},
        {"address": "fd42::7/64", "gateway": "fd42::1", "interface": 2},
    ],
    "routes": [{"dst": "0.0.0.0/0"}],
    "dns": {},
}


class Answer(NamedTuple):
    """What a runtime sees of a call: exit status, standard output and standard error."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output, parsed as one JSON document."""
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        """The CNI error object of a failed call. Asserts exit status 1, the keys of the specification and no traceback."""
        assert self.status == 1
        assert "Traceback" not in self.stderr
        error = self.json
        assert set(error) == {"cniVersion", "code", "msg", "details"}
        assert error["msg"].isprintable()
        assert error["details"].isprintable()
        assert isinstance(error, dict)
        return error


def config(**changes: Any) -> dict[str, Any]:
    """Returns a conflist entry as a runtime sends it. A value of ``...`` removes the key."""
    entry = {
        "cniVersion": "1.1.0",
        "name": "cbr0",
        "type": "tailscale-cni",
        "prevResult": PREV_RESULT,
        **changes,
    }
    return {key: value for key, value in entry.items() if value is not ...}


def environ(**changes: str | None) -> dict[str, str]:
    """Returns the environment of a call. Names are given without ``CNI_``; None removes a variable."""
    variables = {**ENVIRON, **{f"CNI_{name}": value for name, value in changes.items()}}
    return {name: value for name, value in variables.items() if value is not None}


def nothing(_: Request) -> None:
    """A verb that succeeds and returns no result."""


def call(
    entry: Mapping[str, Any] | bytes | None = None,
    variables: Mapping[str, str] | None = None,
    verb: Callable[[Request], Mapping[str, Any] | None] = nothing,
) -> Answer:
    """Make a call in this process."""
    stdout, stderr = io.BytesIO(), io.StringIO()
    stdin = io.BytesIO(_bytes(entry))
    variables = environ() if variables is None else variables
    status = dispatch.main(variables, stdin, stdout, stderr, lambda _: verb)
    return Answer(status, stdout.getvalue(), stderr.getvalue())


def run_module(entry: Mapping[str, Any] | bytes | None, variables: Mapping[str, str]) -> Answer:
    """Call ``python -m tailscale_cni``. Its environment has ``variables``, PATH and PYTHONDONTWRITEBYTECODE only."""
    return run([sys.executable, "-m", "tailscale_cni"], _bytes(entry), variables)


def run_script(script: str, redirections: str = "", entry: bytes | None = None) -> Answer:
    """Run a Python ``script`` after the shell has applied ``redirections`` to its standard streams."""
    command = ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, "-c", script]
    return run(command, _bytes(entry), environ())


def run(command: list[str], stdin: bytes, variables: Mapping[str, str]) -> Answer:
    """Run a process in the source tree and wait until it exits."""
    found = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    done = subprocess.run(
        command, input=stdin, env=found, cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    return Answer(done.returncode, done.stdout, done.stderr.decode())


def _bytes(entry: Mapping[str, Any] | bytes | None) -> bytes:
    if isinstance(entry, bytes):
        return entry
    return json.dumps(config() if entry is None else entry).encode()
