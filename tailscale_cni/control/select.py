"""Selects the API that creates a host's auth keys and manages its devices, and the client for that API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from ..config import Config
    from . import ControlPlane

STATIC, TAILSCALE, HEADSCALE = "static", "tailscale", "headscale"


class Recorded(Protocol):
    """A record that names the API of a node's auth keys, with the field names of state files."""

    @property
    def minter(self) -> str:
        """As in ApiRef."""

    @property
    def credential_file(self) -> str:
        """As in ApiRef."""

    @property
    def api_url(self) -> str:
        """As in ApiRef."""

    @property
    def headscale_user(self) -> str:
        """As in ApiRef."""

    @property
    def auth_key_seconds(self) -> int:
        """As in ApiRef."""

    @property
    def proxy_url(self) -> str:
        """As in ApiRef."""


class ApiRef(NamedTuple):
    """An API, and the settings to call it."""

    provider: str
    """``static`` (a file with a reusable key, and no API), ``tailscale`` or ``headscale``."""
    credential_file: str
    api_url: str = ""
    user: str = ""
    """Headscale's user; empty with Tailscale, and with a Headscale that needs no user."""
    key_seconds: int = 0
    """The lifetime of an unused auth key, in seconds."""
    proxy_url: str = ""
    """The URL of an http or https proxy, with its credentials; empty means no proxy."""

    def __repr__(self) -> str:
        """The API, without the proxy's credentials."""
        return f"ApiRef({self.provider}, {self.credential_file}, {self.api_url})"

    @classmethod
    def of(cls, record: Recorded) -> ApiRef:
        """The API that a record names."""
        return cls(
            record.minter,
            record.credential_file,
            record.api_url,
            record.headscale_user,
            record.auth_key_seconds,
            record.proxy_url,
        )

    def fields(self) -> dict[str, Any]:
        """The fields of a record that names this API."""
        return {
            "minter": self.provider,
            "credential_file": self.credential_file,
            "api_url": self.api_url,
            "headscale_user": self.user,
            "auth_key_seconds": self.key_seconds,
            "proxy_url": self.proxy_url,
        }


def is_static(config: Config) -> bool:
    """Whether all nodes of a host register with one static auth key, whose tags were chosen when the key was created."""
    return not (config.oauth_client_secret_file or config.headscale_api_key_file)


def configured(config: Config) -> ApiRef:
    """The API that a host's configuration names. Attachments record it, so a later change only applies to later pods."""
    if is_static(config):
        return ApiRef(STATIC, config.auth_key_file, proxy_url=config.proxy_url)
    seconds = max(1, round(config.auth_key_ttl))
    if config.oauth_client_secret_file:
        from .tailscale import API

        file, url = config.oauth_client_secret_file, config.api_url or API
        return ApiRef(TAILSCALE, file, url, "", seconds, config.proxy_url)
    file, url = config.headscale_api_key_file, config.api_url or config.control_url
    return ApiRef(HEADSCALE, file, url, config.headscale_user, seconds, config.proxy_url)


def start_early(ref: ApiRef) -> None:
    """Start the child process for the first call of this API, and return at once. The child imports while the caller goes on."""
    if ref.provider != STATIC:
        from ..http import client

        client.start_early(ref.api_url, ref.proxy_url)


def control_plane(ref: ApiRef, seconds: float) -> ControlPlane | None:
    """A client whose calls together take at most ``seconds``; None with a static key, which has no API."""
    if ref.provider == TAILSCALE:
        from .tailscale import Tailscale

        return Tailscale(
            ref.credential_file,
            api_url=ref.api_url,
            key_seconds=ref.key_seconds,
            seconds=seconds,
            proxy=ref.proxy_url,
        )
    if ref.provider == HEADSCALE:
        from .headscale import Headscale

        return Headscale(
            ref.credential_file,
            api_url=ref.api_url,
            user=ref.user,
            key_seconds=ref.key_seconds,
            seconds=seconds,
            proxy=ref.proxy_url,
        )
    return None
