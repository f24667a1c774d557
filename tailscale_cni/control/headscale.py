"""Headscale's API, versions 0.26 to 0.30 (``/api/v1``: camelCase, 64-bit numbers as strings).

Up to 0.29, errors are gRPC's, ``{"code": …, "message": …}``, and an unknown user is a 500. From 0.30 on, errors are problems of RFC
7807, ``{"title": …, "status": …, "detail": …, "errors": [{"message": …}]}``. A request for a key without an expiration is answered
with 200 and a key that has already expired.
"""

from __future__ import annotations

import calendar
import time
from typing import TYPE_CHECKING, Any

from .. import errors
from ..json_fields import as_dict, as_list, as_text, as_texts
from . import AuthKey, Device, Lifetime, Refused, Unavailable, as_auth_key, credential
from .rest import Rest

if TYPE_CHECKING:
    from ..http.answer import Answer

WHAT = "an API key of Headscale"
NEW_KEY = "'headscale apikeys create --expiration 999d' makes one."
API_KEY = "hskey-api-"


class Headscale:
    """One Headscale, through an API key, which may read and change everything."""

    def __init__(
        self, api_key_file: str, *, api_url: str, user: str, key_seconds: int, seconds: float, proxy: str = ""
    ) -> None:
        """``user`` is a name or an ID. It may be empty from 0.28 on, where tags are enough.

        Unused keys expire after ``key_seconds``. All calls on this object together take at most ``seconds``.
        """
        self.api_key_file = api_key_file
        self.user = user
        self.key_seconds = key_seconds
        self._rest = Rest(api_url, seconds, proxy)

    def mint(self, *, hostname: str, tags: tuple[str, ...], ephemeral: bool) -> AuthKey:  # noqa: ARG002 - keys have no description
        """A single-use key with these tags, for one node that registers soon.

        The API takes the time at which the key expires, not a duration. A host whose clock is behind, as a Raspberry Pi's after a power
        cut, would get an expired key. In that case the key is requested again, by the server's clock.
        """
        wanted: dict[str, Any] = {"reusable": False, "ephemeral": ephemeral, "aclTags": list(tags)}
        if self.user:
            wanted["user"] = self._user_id()
        now = time.time()
        answer = self._create(wanted, now)
        if answer.ok and answer.date is not None and answer.date >= now + self.key_seconds:
            answer = self._create(wanted, answer.date)
        if not answer.ok and isinstance(answer.document, dict):
            self._explain(answer, tags)
        document = as_dict(self._checked(answer).document)
        return as_auth_key(as_dict(document.get("preAuthKey")).get("key"))

    def lifetime(self) -> Lifetime | None:
        """The lifetime of the API key. Headscale lists API keys masked, so ours is found by its masked form."""
        shown = _shown(self._secret())
        answer = self._done("GET", "/api/v1/apikey")
        for row in map(as_dict, as_list(as_dict(answer.document).get("apiKeys"))):
            ends = _moment(row.get("expiration"))
            if as_text(row.get("prefix")) in shown and ends is not None:
                now = time.time() if answer.date is None else answer.date
                return Lifetime(ends, ends - now, f"{NEW_KEY} Write it to {self.api_key_file}.")
        return None

    def devices(self) -> tuple[Device, ...]:
        """All nodes."""
        nodes = as_dict(self._done("GET", "/api/v1/node").document).get("nodes")
        if not isinstance(nodes, list):
            raise Unavailable("its answer has no list of nodes in it", reached=True)
        return tuple(_device(item) for item in nodes)

    def device(self, node_id: str) -> Device | None:
        """The node of that ID; None if there is none."""
        answer = self._call("GET", _path(node_id))
        if self._is_missing(answer, node_id):
            return None
        return _device(as_dict(self._checked(answer).document).get("node"))

    def rename(self, node_id: str, name: str) -> None:
        """Rename a node. Headscale refuses a name that another node has."""
        from urllib.parse import quote

        self._done("POST", f"{_path(node_id)}/rename/{quote(name, safe='')}")

    def set_tags(self, node_id: str, tags: tuple[str, ...]) -> None:
        """Replace a node's tags with these."""
        self._done("POST", f"{_path(node_id)}/tags", {"tags": list(tags)})

    def delete(self, node_id: str) -> None:
        """Delete a node."""
        answer = self._call("DELETE", _path(node_id))
        if not self._is_missing(answer, node_id):
            self._checked(answer)

    def _is_missing(self, answer: Answer, node_id: str) -> bool:
        """Whether a node does not exist: the node's URL has no node, and the list of all nodes does not contain the node.

        The answer for the node's URL alone proves nothing. A proxy or a wrong path also answers 404, up to 0.29 with the same code 5, and
        each version has another message for a missing node (0.26: 500, "record not found"). Only Headscale answers with the list.
        """
        return answer.status in (404, 500) and all(device.node_id != node_id for device in self.devices())

    def _create(self, wanted: dict[str, Any], now: float) -> Answer:
        expiration = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + self.key_seconds + 1))
        return self._call("POST", "/api/v1/preauthkey", {**wanted, "expiration": expiration})

    def _user_id(self) -> str:
        """The ID of the user, which the API needs, looked up by name. Raises Refused."""
        if self.user.isdecimal():
            return self.user
        users = as_list(as_dict(self._done("GET", "/api/v1/user").document).get("users"))
        found = [as_text(user["id"]) for user in map(as_dict, users) if user.get("name") == self.user]
        if not found or not found[0].isdecimal():
            raise self._no_user()
        return found[0]

    def _no_user(self) -> Refused:
        shown = errors.show(self.user)
        if self.user:
            return Refused(
                f"Headscale has no user {shown}",
                f"Make it with 'headscale users create {shown}', or set headscaleUser to one of 'headscale users list'.",
            )
        return Refused(
            "this Headscale makes no keys without a user (it is older than 0.28)",
            "Set headscaleUser to one of 'headscale users list'.",
        )

    def _done(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        return self._checked(self._call(method, path, body))

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        return self._rest.call(method, path, token=self._secret(), body=body)

    def _secret(self) -> str:
        """The API key. Raises NoAuthKey."""
        secret = credential.read(self.api_key_file, WHAT, "headscaleAPIKeyFile")
        check(secret, self.api_key_file)
        return secret

    def _checked(self, answer: Answer) -> Answer:
        """The answer, if it is a success and a JSON object. Raises Refused, Unavailable."""
        if answer.ok and isinstance(answer.document, dict):
            return answer
        if answer.status in (401, 403):
            raise Refused(
                f"the API key in {self.api_key_file} is not valid: it has expired (after 90 days if nobody said otherwise) or was "
                f"mistyped ({answer.message})",
                f"{NEW_KEY} Write it to {self.api_key_file}.",
            )
        if not isinstance(answer.document, dict):
            raise Refused(
                f"it answers {answer.status}, and not as Headscale does ({answer.message})",
                "Is controlURL your Headscale's URL? If its API is elsewhere, set apiURL.",
            )
        if answer.status >= 500:
            raise Unavailable(f"it answers {answer.status} ({answer.message})", reached=True)
        raise Refused(f"it answers {answer.status} ({answer.message})", "docs/headscale.md shows the set-up.")

    def _explain(self, answer: Answer, tags: tuple[str, ...]) -> None:
        """Raise Refused if a key was refused because of the user or the tags."""
        if "user" in answer.message:
            raise self._no_user()
        if "tag" in answer.message:
            owners = ", ".join(f'"{tag}": []' for tag in tags)
            raise Refused(
                f"it does not take the tags {', '.join(tags)} ({answer.message})",
                f'Tags are in lower case, and in its policy: "tagOwners": {{{owners}}}.',
            )


def check(secret: str, where: str) -> None:
    """Raise NoAuthKey if this is a credential of another kind. The error does not show the secret."""
    if secret.startswith(("tskey-", "hskey-auth-")):
        advice = f"It must hold {WHAT}, not an auth key. {NEW_KEY}"
        raise errors.NoAuthKey(reason=f"{where} does not hold {WHAT}", advice=advice)


def _shown(secret: str) -> tuple[str, ...]:
    """The masked forms of an API key in a list (hscontrol/types/api_key.go).

    The key is ``hskey-api-PREFIX-SECRET``, or before 0.28 ``PREFIX.SECRET``.
    """
    if secret.startswith(API_KEY):
        return (f"{secret[: len(API_KEY) + 12]}-***",)
    prefix, dot, _ = secret.partition(".")
    return (prefix, f"{prefix}***") if dot else ()


def _moment(value: object) -> float | None:
    """A protobuf timestamp from JSON, always in UTC, as seconds since the epoch; None if it is not one."""
    text = as_text(value)
    try:
        moment = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
    return float(moment) if text.endswith("Z") else None


def _path(node_id: str) -> str:
    from urllib.parse import quote

    return f"/api/v1/node/{quote(node_id, safe='')}"


def _device(value: object) -> Device:
    item = as_dict(value)
    before_028 = (*as_texts(item.get("forcedTags")), *as_texts(item.get("validTags")))
    return Device(
        node_id=as_text(item.get("id")),
        node_key=as_text(item.get("nodeKey")),
        name=as_text(item.get("givenName")),
        hostname=as_text(item.get("name")),
        addresses=as_texts(item.get("ipAddresses")),
        tags=as_texts(item.get("tags")) or tuple(dict.fromkeys(before_028)),
        ephemeral=as_dict(item.get("preAuthKey")).get("ephemeral") is True,
        online=item.get("online") is True,
        last_seen=as_text(item.get("lastSeen")),
        expiry=as_text(item.get("expiry")),
    )
