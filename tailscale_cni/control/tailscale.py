"""Tailscale's API, through an OAuth client (https://tailscale.com/api, tailscale.com/client/tailscale/v2).

An OAuth client's secret, ``tskey-client-ID-…``, is exchanged for a token that is valid for an hour and is not stored. The client may
create auth keys with exactly its own tags, or with tags that its tags own (tailscale/tailscale 15456). docs/tailscale.md shows the set-up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import errors
from ..json_fields import as_dict, as_list, as_text, as_texts
from . import AuthKey, Device, Lifetime, Refused, Unavailable, as_auth_key, credential
from .rest import Rest

if TYPE_CHECKING:
    from ..http.answer import Answer

API = "https://api.tailscale.com"
WHAT = "the secret of an OAuth client (tskey-client-…)"
PREFIX = "tskey-client-"
MAX_DESCRIPTION = 50
"""The most characters of a key's description. They may be letters, digits, hyphens and spaces."""

RENEW = (
    "Make an OAuth client in the admin console (Settings, Trust credentials), and write its secret to {path}."
)


class Tailscale:
    """One tailnet, with the permissions of an OAuth client."""

    def __init__(
        self, secret_file: str, *, api_url: str, key_seconds: int, seconds: float, proxy: str = ""
    ) -> None:
        """Unused keys expire after ``key_seconds``. All calls on this object together take at most ``seconds``."""
        self.secret_file = secret_file
        self.key_seconds = key_seconds
        self._rest = Rest(api_url, seconds, proxy)
        self._token = ""
        self._client_tags: tuple[str, ...] = ()

    def mint(self, *, hostname: str, tags: tuple[str, ...], ephemeral: bool) -> AuthKey:
        """A single-use, pre-approved key with these tags, for one node that registers soon."""
        if not tags:
            raise Refused(
                "an OAuth client makes keys for tagged nodes only, and this one would have no tag",
                "Give the host's nodes a tag: 'tags' in the host's configuration.",
            )
        create = {"reusable": False, "ephemeral": ephemeral, "preauthorized": True, "tags": list(tags)}
        answer = self._call(
            "POST",
            "/api/v2/tailnet/-/keys",
            {
                "capabilities": {"devices": {"create": create}},
                "expirySeconds": self.key_seconds,
                "description": f"tailscale-cni {hostname}"[:MAX_DESCRIPTION],
            },
        )
        if answer.ok:
            return as_auth_key(as_dict(answer.document).get("key"))
        if "tag" in answer.message:
            raise self._tags_refused(answer, tags)
        raise self._refused(answer, "auth_keys")

    def lifetime(self) -> Lifetime | None:
        """None, because an OAuth client does not expire; it lives until it is revoked."""
        return None

    def devices(self) -> tuple[Device, ...]:
        """All nodes of the tailnet. The API returns them in one answer."""
        answer = self._call("GET", "/api/v2/tailnet/-/devices")
        if not answer.ok:
            raise self._refused(answer, "devices:core")
        return tuple(_device(item) for item in as_list(as_dict(answer.document).get("devices")))

    def device(self, node_id: str) -> Device | None:
        """The node of that ID; None if there is none."""
        answer = self._call("GET", _path(node_id))
        if answer.status == 404:
            return None
        if not answer.ok:
            raise self._refused(answer, "devices:core")
        return _device(answer.document)

    def rename(self, node_id: str, name: str) -> None:
        """Rename a node."""
        self._change("POST", f"{_path(node_id)}/name", {"name": name})

    def set_tags(self, node_id: str, tags: tuple[str, ...]) -> None:
        """Replace a node's tags with these."""
        answer = self._call("POST", f"{_path(node_id)}/tags", {"tags": list(tags)})
        if not answer.ok and "tag" in answer.message:
            raise self._tags_refused(answer, tags)
        if not answer.ok:
            raise self._refused(answer, "devices:core")

    def delete(self, node_id: str) -> None:
        """Delete a node."""
        answer = self._call("DELETE", _path(node_id))
        if not answer.ok and answer.status != 404:
            raise self._refused(answer, "devices:core")

    def _change(self, method: str, path: str, body: dict[str, Any]) -> None:
        answer = self._call(method, path, body)
        if not answer.ok:
            raise self._refused(answer, "devices:core")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        if not self._token:
            self._log_in()
        return self._rest.call(method, path, token=self._token, body=body)

    def _log_in(self) -> None:
        """Exchange the secret for a token. Raises NoAuthKey, Refused, Unavailable."""
        secret = credential.read(self.secret_file, WHAT, "oauthClientSecretFile")
        check(secret, self.secret_file)
        client_id = secret.removeprefix(PREFIX).partition("-")[0]
        form = {"client_id": client_id, "client_secret": secret, "grant_type": "client_credentials"}
        answer = self._rest.call("POST", "/api/v2/oauth/token", form=form)
        if not answer.ok:
            if answer.status in (400, 401, 403):
                raise Refused(
                    f"the OAuth client's secret in {self.secret_file} is not valid: it was revoked or mistyped ({answer.message})",
                    RENEW.format(path=self.secret_file),
                )
            raise self._refused(answer, "auth_keys")
        document = as_dict(answer.document)
        token = document.get("access_token")
        if (
            not isinstance(token, str)
            or not token.isascii()
            or not token.isprintable()
            or not 0 < len(token) < 4096
        ):
            raise Unavailable("its answer has no token in it", reached=True)
        self._token = token
        self._client_tags = tuple(as_text(document.get("tags")).split())

    def _refused(self, answer: Answer, scope: str) -> Refused:
        """The error for a refusal, with the reason and what to do."""
        if answer.status == 401:
            return Refused(
                f"the OAuth client of {self.secret_file} is not valid any more ({answer.message})",
                RENEW.format(path=self.secret_file),
            )
        if answer.status == 403:
            return Refused(
                f"the OAuth client lacks the scope {scope} ({answer.message})",
                "Give it the scopes auth_keys and devices:core, both with write, in the admin console (Settings, Trust credentials).",
            )
        return Refused(
            f"it answers {answer.status} ({answer.message})",
            "Is apiURL Tailscale's API? docs/tailscale.md shows the set-up.",
        )

    def _tags_refused(self, answer: Answer, tags: tuple[str, ...]) -> Refused:
        """The error for refused tags.

        The API has one message for a tag that does not exist and a tag that the client may not give. The client's own tags tell which.
        """
        asked, own = ", ".join(tags), ", ".join(map(errors.show, self._client_tags)).replace("'", "")
        if self._client_tags and set(tags) <= set(self._client_tags) and set(tags) != set(self._client_tags):
            return Refused(
                f"the OAuth client has the tags {own}, and may make a key with all of them, but not with {asked} alone ({answer.message})",
                f"Give the client one tag that owns the others: in the policy file, {_owners(tags)}.",
            )
        if set(tags) == set(self._client_tags):
            return Refused(
                f"a tag of {asked} is not in the tailnet's policy file ({answer.message})",
                f"Add it to tagOwners: {_owners(tags)}.",
            )
        return Refused(
            f"a tag of {asked} is not in the policy file, or no tag of the OAuth client ({own or 'it has none'}) owns it "
            f"({answer.message})",
            f"In the policy file: {_owners(tags, *self._client_tags[:1])}. docs/tailscale.md shows the one client tag that owns "
            "all others.",
        )


def check(secret: str, where: str) -> None:
    """Raise NoAuthKey if this is a credential of another kind. The error does not show the secret."""
    if not secret.startswith(PREFIX) or not secret.removeprefix(PREFIX).strip("-"):
        advice = f"It must hold {WHAT}, not an auth key and not an API access token."
        raise errors.NoAuthKey(reason=f"{where} does not hold {WHAT}", advice=advice)


def _owners(tags: tuple[str, ...], owner: str = "tag:k8s-cni") -> str:
    shown = errors.show(owner).strip("'")
    rows = [f'"{tag}": [{"" if tag == shown else chr(34) + shown + chr(34)}]' for tag in tags]
    return f'"tagOwners": {{{", ".join(rows)}}}'


def _path(node_id: str) -> str:
    from urllib.parse import quote

    return f"/api/v2/device/{quote(node_id, safe='')}"


def _device(value: object) -> Device:
    item = as_dict(value)
    return Device(
        node_id=as_text(item.get("nodeId")),
        node_key=as_text(item.get("nodeKey")),
        name=as_text(item.get("name")).partition(".")[0],
        hostname=as_text(item.get("hostname")),
        addresses=as_texts(item.get("addresses")),
        tags=as_texts(item.get("tags")),
        ephemeral=item.get("isEphemeral") is True,
        online=item.get("connectedToControl") is True,
        last_seen=as_text(item.get("lastSeen")),
        expiry="" if item.get("keyExpiryDisabled") is True else as_text(item.get("expires")),
    )
