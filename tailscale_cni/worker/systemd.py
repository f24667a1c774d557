"""Transient units, where PID 1 is systemd. The one place that starts a foreign program and waits for it."""

from __future__ import annotations

import subprocess

from .. import errors

SLICE = "tailscale_cni.slice"
"""Not ``tailscale-cni.slice``: a dash would nest it in ``tailscale.slice``."""

FINAL = "0 3"
"""Ends of a supervisor that are no failure: told to end, or nothing left to run."""

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
"""The beginning of a command line whose rest runs beside the unit, and so reaches the loopback range; its parent, its descriptors
and its exit status stay what they are."""


def start(unit: str, description: str, argv: list[str], *, loopback: tuple[str, ...]) -> None:
    """Start a transient service and return when it was started.

    ``loopback`` are the loopback addresses that it may reach.

    Raises OSError with systemd-run's own words.
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
    """Stop a unit and forget it; nothing if there is none."""
    try:
        _run(["systemctl", "stop", unit], unit)
    except OSError:
        if is_active(unit):
            raise


def is_active(unit: str) -> bool:
    """Whether a unit runs, or is about to again."""
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
