"""How soon a control plane may be asked again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailscale_cni import linux
from tailscale_cni.state import backoff
from tailscale_cni.state.backoff import Backoff, TooSoon


class Clock:
    """The boot's clock, as far as the test lets it go."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still."""
    clock = Clock()
    monkeypatch.setattr(backoff, "_now", clock)
    return clock


@pytest.fixture
def host(tmp_path: Path, clock: Clock) -> Backoff:
    """A host that nobody has asked anything on."""
    return Backoff(str(tmp_path / "run"))


def wait(host: Backoff, who: str) -> float:
    """How long somebody has to wait."""
    with pytest.raises(TooSoon) as soon:
        host.begin(who)
    return soon.value.seconds


def test_each_further_key_takes_twice_as_long(host: Backoff, clock: Clock) -> None:
    """A pod whose keys come to nothing, or whose answers are lost, is given ever fewer, but never none."""
    waits = []
    for _ in range(12):
        host.begin("web")
        waits.append(wait(host, "web"))
        clock.now += waits[-1]
    for number, seconds in enumerate(waits):
        longest = min(300.0, 2.0 * 2**number)
        assert longest / 2 <= seconds <= longest


def test_pods_do_not_wait_for_one_another(host: Backoff) -> None:
    """A hundred pods that start at once are given a hundred keys."""
    for number in range(100):
        host.begin(f"web-{number}")
        host.answered()


def test_a_pod_that_connected_begins_anew(host: Backoff) -> None:
    """What it needs next is the first again."""
    host.begin("web")
    host.connected("web")
    host.begin("web")


def test_who_is_not_heard_is_soon_asked_again(host: Backoff, clock: Clock) -> None:
    """While nothing gets through, the whole host waits a few seconds at most, however long it lasts; and no key is counted."""
    for _ in range(50):
        host.begin("web")
        host.unreached("web")
        seconds = wait(host, "other")
        assert seconds <= backoff.UNREACHED.longest
        clock.now += seconds
    host.begin("web")
    assert wait(host, "web") <= 2 * backoff.EACH.first


def test_who_does_not_answer_is_asked_by_everybody_less_often(host: Backoff, clock: Clock) -> None:
    """A control plane that has too much to do gets less from the whole host; once it answers, it is as before."""
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
    """A person who looks at a pod that fails sees why each time, and what was mended is tried at once."""
    for _ in range(20):
        host.begin("web")
        host.refused("web")


def test_what_a_control_plane_asks_for_is_given(host: Backoff) -> None:
    """Its Retry-After is for all pods of the host."""
    host.begin("web")
    host.unanswered(120.0)
    assert wait(host, "other") == pytest.approx(120.0)


def test_a_question_counts_before_it_is_asked(host: Backoff, tmp_path: Path) -> None:
    """Who is killed while it waits for an answer has asked."""
    host.begin("web")
    assert wait(Backoff(str(tmp_path / "run")), "web") > 0


def test_a_reboot_begins_anew(host: Backoff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock began anew, too: nothing of before means anything."""
    host.begin("web")
    host.unanswered(300.0)
    monkeypatch.setattr(linux, "boot_id", lambda: "another")
    Backoff(str(tmp_path / "run")).begin("web")


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b'{"boot": 1, "failures": [], "until": "x"}', b"\xff"])
def test_what_cannot_be_read_is_nothing(host: Backoff, tmp_path: Path, content: bytes) -> None:
    """A file of ours that is broken keeps no pod from its key."""
    host.begin("web")
    for path in (tmp_path / "run" / "patience").iterdir():
        path.write_bytes(content)
    host.begin("web")


def test_what_is_old_is_forgotten(host: Backoff, clock: Clock, tmp_path: Path) -> None:
    """Pods that never came to be a node leave nothing for ever."""
    host.begin("web")
    clock.now += 2 * backoff.KEPT
    host.begin("other")
    (left,) = (tmp_path / "run" / "patience").iterdir()
    assert json.loads(left.read_text())["until"] > clock.now


def test_nobody_comes_with_everybody(host: Backoff) -> None:
    """Delays differ, so that those who failed together do not come together."""
    waits = set()
    for number in range(20):
        host.begin(f"web-{number}")
        waits.add(wait(host, f"web-{number}"))
    assert len(waits) > 10
