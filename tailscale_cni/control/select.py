"""Which control plane makes a host's auth keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import Config
    from ..node.credentials import Credential
    from ..state.attachments import Attachment
    from ..state.outbox import Deletion
    from . import ControlPlane


def is_static(host: Config) -> bool:
    """Whether all nodes of a host register with one key, whose tags were chosen when it was made."""
    return not (host.oauth_client_secret_file or host.headscale_api_key_file)


def choice(host: Config) -> dict[str, Any]:
    """Who makes a host's keys, as an attachment records it: a later change is for the pods that come later."""
    shared = {"auth_key_seconds": max(1, round(host.auth_key_ttl))}
    if host.oauth_client_secret_file:
        from ..control.tailscale import API

        file = host.oauth_client_secret_file
        return {"minter": "tailscale", "credential_file": file, "api_url": host.api_url or API, **shared}
    if host.headscale_api_key_file:
        return {
            "minter": "headscale",
            "credential_file": host.headscale_api_key_file,
            "api_url": host.api_url or host.control_url,
            "headscale_user": host.headscale_user,
            **shared,
        }
    return {"minter": "static", "credential_file": host.auth_key_file}


def chosen(host: Config) -> dict[str, Any]:
    """The same, with every field that a deletion has."""
    return {"headscale_user": "", "auth_key_seconds": 0, "api_url": "", **choice(host)}


def control_plane(attachment: Attachment | Deletion | Credential, seconds: float) -> ControlPlane | None:
    """The API that a node, or its deletion, was recorded with, for calls that take ``seconds`` together.

    None with a static key, which has none.
    """
    if attachment.minter == "tailscale":
        from ..control.tailscale import Tailscale

        return Tailscale(
            attachment.credential_file,
            api_url=attachment.api_url,
            key_seconds=attachment.auth_key_seconds,
            seconds=seconds,
        )
    if attachment.minter == "headscale":
        from ..control.headscale import Headscale

        return Headscale(
            attachment.credential_file,
            api_url=attachment.api_url,
            user=attachment.headscale_user,
            key_seconds=attachment.auth_key_seconds,
            seconds=seconds,
        )
    return None
