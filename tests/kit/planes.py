"""Hosts whose auth keys come from an API: Tailscale's or Headscale's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .controlplane import ControlPlane
from .host import Host

NewHost = Callable[..., Host]
TRUSTED = {"permissions": {"*": "all"}}


def write_secret(path: Path, secret: str) -> str:
    """Write a secret to a file that only its owner can read, and return the path."""
    path.touch(0o600)
    path.write_text(secret)
    return str(path)


def oauth(new_host: NewHost, control: ControlPlane, **config: Any) -> Host:
    """A host with an OAuth client and no static auth key."""
    host = new_host(apiURL=control.url, **{**TRUSTED, **config})
    host.key_file.unlink()
    client = control.new_client(tags=["tag:k8s-cni"])
    host.configure(oauthClientSecretFile=write_secret(host.root / "oauth", client.secret))
    return host


def headscale(new_host: NewHost, control: ControlPlane, **config: Any) -> Host:
    """A host with a Headscale API key and no static auth key."""
    host = new_host(**{**TRUSTED, **config})
    host.key_file.unlink()
    host.configure(headscaleAPIKeyFile=write_secret(host.root / "apikey", control.new_api_key()))
    return host


KINDS = pytest.mark.parametrize("kind", [oauth, headscale], ids=["oauth", "headscale"])
Kind = Callable[..., Host]
