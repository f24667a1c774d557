"""How long a host waits before it asks a control plane again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailscale_cni import linux
from tailscale_cni.state import backoff
from tailscale_cni.state.backoff import Backoff, TooSoon


class Clock:
    """Replaces the clock of the boot. Tests advance ``now``, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Returns the time in seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that advances only when a test changes it."""
    clock = Clock()
    monkeypatch.setattr(backoff, "_now", clock)
    return clock


@pytest.fixture
def host(tmp_path: Path, clock: Clock) -> Backoff:
    """A host that has not asked a control plane yet."""
    return Backoff(str(tmp_path / "run"))


def wait(host: Backoff, who: str) -> float:
    """Returns how many seconds a pod must wait."""
    with pytest.raises(TooSoon) as soon:
        host.begin(who)
    return soon.value.seconds


def test_each_further_key_takes_twice_as_long(host: Backoff, clock: Clock) -> None:
    """A pod whose auth keys or answers are lost waits twice as long for each further key, at most 300 seconds."""
    waits = []
    for _ in range(12):
        host.begin("web")
        waits.append(wait(host, "web"))
        clock.now += waits[-1]
    for number, seconds in enumerate(waits):
        longest = min(300.0, 2.0 * 2**number)
        assert longest / 2 <= seconds <= longest


def test_pods_do_not_wait_for_one_another(host: Backoff) -> None:
    """A hundred pods that start at once get a hundred auth keys without waiting."""
    for number in range(100):
        host.begin(f"web-{number}")
        host.answered()


def test_a_pod_that_connected_begins_anew(host: Backoff) -> None:
    """A pod that has connected does not wait for its next auth key."""
    host.begin("web")
    host.connected("web")
    host.begin("web")


def test_who_is_not_heard_is_soon_asked_again(host: Backoff, clock: Clock) -> None:
    """While a control plane is unreachable, the host retries every few seconds, however long that lasts, and no auth key is counted."""
    for _ in range(50):
        host.begin("web")
        host.unreached("web")
        seconds = wait(host, "other")
        assert seconds <= backoff.UNREACHED.longest
        clock.now += seconds
    host.begin("web")
    assert wait(host, "web") <= 2 * backoff.EACH.first


def test_who_does_not_answer_is_asked_by_everybody_less_often(host: Backoff, clock: Clock) -> None:
    """If the control plane does not answer, all pods of the host wait longer each time. An answer ends the wait."""
    for number in range(10):
        host.begin(f"web-{number}")
        host.unanswered(0.0)
        clock.now += wait(host, "other")
    host.begin("last")
    host.unanswered(0.0)
    assert wait(host, "other") >= backoff.UNANSWERED.longest / 2
    host.answered()
    host.begin("other")


def test_a_refusal_is_told_to_whoever_asks(host: Backoff) -> None:
    """After a refusal the next attempt is immediate, so that users see the reason each time and a fix works at once."""
    for _ in range(20):
        host.begin("web")
        host.refused("web")


def test_what_a_control_plane_asks_for_is_given(host: Backoff) -> None:
    """A Retry-After applies to all pods of the host."""
    host.begin("web")
    host.unanswered(120.0)
    assert wait(host, "other") == pytest.approx(120.0)


def test_a_question_counts_before_it_is_asked(host: Backoff, tmp_path: Path) -> None:
    """A request counts even if its process is killed before the answer."""
    host.begin("web")
    assert wait(Backoff(str(tmp_path / "run")), "web") > 0


def test_a_reboot_begins_anew(host: Backoff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting times end with a reboot, because the clock restarts."""
    host.begin("web")
    host.unanswered(300.0)
    monkeypatch.setattr(linux, "boot_id", lambda: "another")
    Backoff(str(tmp_path / "run")).begin("web")


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b'{"boot": 1, "failures": [], "until": "x"}', b"\xff"])
def test_what_cannot_be_read_is_nothing(host: Backoff, tmp_path: Path, content: bytes) -> None:
    """A broken backoff file does not keep a pod from its auth key."""
    host.begin("web")
    for path in (tmp_path / "run" / "patience").iterdir():
        path.write_bytes(content)
    host.begin("web")


def test_what_is_old_is_forgotten(host: Backoff, clock: Clock, tmp_path: Path) -> None:
    """Files of pods that never became nodes are removed after a while."""
    host.begin("web")
    clock.now += 2 * backoff.KEPT
    host.begin("other")
    (left,) = (tmp_path / "run" / "patience").iterdir()
    assert json.loads(left.read_text())["until"] > clock.now


def test_nobody_comes_with_everybody(host: Backoff) -> None:
    """Waiting times are random, so that pods that failed together do not retry together."""
    waits = set()
    for number in range(20):
        host.begin(f"web-{number}")
        waits.add(wait(host, f"web-{number}"))
    assert len(waits) > 10
