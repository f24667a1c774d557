"""What a unit is started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailscale_cni.state.attachments import Attachment
from tailscale_cni.worker import launch, systemd


@pytest.mark.parametrize("key", ["control_url", "api_url", "proxy_url"])
def test_a_unit_reaches_the_loopback_addresses_that_are_configured(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control plane, its API or a proxy at a loopback address is allowed; no other URL adds an address."""
    allowed: list[tuple[str, ...]] = []
    monkeypatch.setattr(systemd, "start", lambda *_, loopback: allowed.append(loopback))
    urls: dict[str, Any] = dict.fromkeys(("control_url", "api_url", "proxy_url"), "https://c.example.com")
    for url in ("https://c.example.com", "http://user:secret@127.0.0.53:3128"):
        attachment = Attachment(
            network="net",
            container_id="c",
            ifname="eth0",
            netns="/nowhere",
            state_dir=str(tmp_path),
            run_dir=str(tmp_path),
            nonce="n",
            **urls | {key: url},
        )
        launch._start_unit(attachment, "/artefact")
    without, with_loopback = allowed
    assert set(with_loopback) - set(without) == {"127.0.0.53"} - set(without)
    assert "127.0.0.53" in with_loopback
