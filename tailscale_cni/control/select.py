"""Which API makes a host's auth keys and knows its devices, and the client for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from ..config import Config
    from . import ControlPlane

STATIC, TAILSCALE, HEADSCALE = "static", "tailscale", "headscale"


class Recorded(Protocol):
    """A record that says which API a node's keys are from, with the names of fields that state files have."""

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
    """Which API, and how it is called."""

    provider: str
    """``static`` (a file with a reusable key, and no API), ``tailscale`` or ``headscale``."""
    credential_file: str
    api_url: str = ""
    user: str = ""
    """Headscale's user; empty with Tailscale, and with a Headscale that needs none."""
    key_seconds: int = 0
    """How long an auth key that is not used lives."""
    proxy_url: str = ""
    """An http or https proxy, with its credentials; empty: none."""

    def __repr__(self) -> str:
        """Without the proxy's credentials."""
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
        """The same as fields of a record."""
        return {
            "minter": self.provider,
            "credential_file": self.credential_file,
            "api_url": self.api_url,
            "headscale_user": self.user,
            "auth_key_seconds": self.key_seconds,
            "proxy_url": self.proxy_url,
        }


def is_static(config: Config) -> bool:
    """Whether all nodes of a host register with one key, whose tags were chosen when it was made."""
    return not (config.oauth_client_secret_file or config.headscale_api_key_file)


def configured(config: Config) -> ApiRef:
    """The API that a host's configuration names. Attachments record it: a later change applies to later pods."""
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
    """Start what the first call of this API needs, and return at once: it imports while the caller does something else."""
    if ref.provider != STATIC:
        from ..http import client

        client.start_early(ref.api_url, ref.proxy_url)


def control_plane(ref: ApiRef, seconds: float) -> ControlPlane | None:
    """A client whose calls take at most ``seconds`` together; None with a static key, which has no API."""
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
