"""The exit statuses that the Go programs and Python share (workers/internal/exits/exits.go)."""

from __future__ import annotations

import re
from pathlib import Path

from tailscale_cni.tasks import exits
from tailscale_cni.worker import systemd

TABLE = Path(__file__).parents[2] / "workers" / "internal" / "exits" / "exits.go"
STATUSES = {
    name: int(number)
    for name, number in re.findall(
        r"^\t(\w+) += (\d+) +// \w", TABLE.read_text(encoding="utf-8"), re.MULTILINE
    )
}


def test_no_number_has_two_meanings() -> None:
    """Every exit status has one meaning."""
    assert len(STATUSES) == 9
    assert len(set(STATUSES.values())) == len(STATUSES)


def test_python_and_go_have_the_same_numbers() -> None:
    """The supervisor interprets a task's exit status as Python means it, and systemd knows which statuses are final."""
    ours = {name: value for name, value in vars(exits).items() if name.isupper()}
    names = {
        "Done": "DONE",
        "Crash": "RETRY_LATER",
        "Gone": "GONE",
        "Moved": "MOVED",
        "AskAgain": "ASK_AGAIN",
    }
    assert {name: STATUSES[go] for go, name in names.items()} == ours
    assert systemd.FINAL.split() == [str(STATUSES["Done"]), str(STATUSES["Gone"])]
