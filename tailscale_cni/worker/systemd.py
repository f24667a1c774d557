"""Transient systemd units. This is the only module that starts a program and waits for it."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from .. import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

SLICE = "tailscale_cni.slice"
"""The slice of all nodes. With a dash instead of the underscore, systemd would nest it in ``tailscale.slice``."""

FINAL = "0 3"
"""Exit statuses of a supervisor after which systemd does not restart it: it was told to end, or has nothing left to run."""

COMMAND_TIMEOUT = 10.0
"""Seconds that ``systemctl`` and ``systemd-run`` may take."""

LIMITS = {"TasksMax": "256", "MemoryMax": "512M"}

OUTSIDE = (
    "systemd-run",
    "--scope",
    "--quiet",
    "--collect",
    f"--slice={SLICE}",
    *(f"--property={key}={value}" for key, value in LIMITS.items()),
    "--",
)
"""A command prefix that runs the rest of the command line in a scope outside the unit, where the loopback range is reachable.
The command keeps its parent, descriptors and exit status."""


def start(unit: str, description: str, argv: list[str], *, loopback: tuple[str, ...]) -> None:
    """Start a transient service that runs ``argv``, and return once it is started.

    ``loopback`` has the loopback addresses that the service may reach. Raises OSError with the message of systemd-run.
    """
    properties = {
        "Type": "exec",
        "Slice": SLICE,
        "Restart": "on-failure",
        "RestartSec": "1s",
        "RestartPreventExitStatus": FINAL,
        "StartLimitIntervalSec": "0",
        "SuccessExitStatus": "3",
        "KillMode": "mixed",
        "TimeoutStopSec": "10s",
        "UMask": "0077",
        "NoNewPrivileges": "yes",
        "LimitCORE": "0",
        "LimitNOFILE": "65536",
        "OOMScoreAdjust": "0",
        **LIMITS,
        "IPAddressDeny": "127.0.0.0/8 ::1/128",
        "IPAddressAllow": " ".join(loopback),
        "SyslogIdentifier": unit.removesuffix(".service"),
    }
    options = [f"--property={key}={value}" for key, value in properties.items() if value]
    command = [
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={unit}",
        f"--description={description}",
        *options,
        "--",
        *argv,
    ]
    _run(command, unit)


def stop(unit: str) -> None:
    """Stop a unit, if it exists. Raises OSError if it still runs."""
    try:
        _run(["systemctl", "stop", unit], unit)
    except OSError:
        if is_active(unit):
            raise


def is_active(unit: str) -> bool:
    """Whether a unit is active, or about to be: a failed unit is ``activating`` until it is restarted."""
    return _quietly(["systemctl", "is-active", "--quiet", unit]) == 0 or _state(unit) in (
        "activating",
        "deactivating",
    )


def _state(unit: str) -> str:
    done = _execute(["systemctl", "show", "--property=ActiveState", "--value", unit])
    return done.stdout.strip()


def _quietly(command: list[str]) -> int:
    return _execute(command).returncode


def _run(command: list[str], unit: str) -> None:
    done = _execute(command)
    if done.returncode != 0:
        raise OSError(f"{command[0]} {unit}: {errors.show(done.stderr.strip())}")


def _execute(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} has not answered within {COMMAND_TIMEOUT:.0f} s") from None


def loopback_addresses(*urls: str) -> Iterator[str]:
    """The loopback addresses that a node with its socket in the host's namespace needs: of resolvers, and of ``urls``."""
    import ipaddress
    from urllib.parse import urlsplit

    candidates = [urlsplit(url).hostname or "" for url in urls]
    candidates += ["127.0.0.1", "::1"] if "localhost" in candidates else []
    with contextlib.suppress(OSError), open("/etc/resolv.conf", encoding="utf-8", errors="replace") as f:
        candidates += [words[1] for words in map(str.split, f) if len(words) > 1 and words[0] == "nameserver"]
    for text in candidates:
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(text).is_loopback:
                yield text
