"""The few calls to a cluster's API: a namespace's annotations, a pod's controller and Node, and the Secrets of identities.

The API's answers are not trusted: they are bounded in time and size, and their fields are checked. Nothing here shows a secret.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from ..json_fields import as_dict, as_list, as_word

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..http.answer import Answer
    from ..http.client import Client
    from .kubeconfig import Access

MAX_ANSWER = 8 * 2**20
"""The largest answer, in bytes. etcd accepts objects of 1.5 MiB, which can be longer as JSON."""
MAX_NAME = 253

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


class Conflict(Exception):
    """The object was changed or deleted after it was read, or it exists already."""


class Node(NamedTuple):
    """A Node object, which represents a host until it is deleted. A Node that is created again has another UID."""

    uid: str
    out_of_service: bool
    """Whether the Node has the taint node.kubernetes.io/out-of-service, by which a person states that nothing runs there."""
    ready: bool
    boot: str = ""
    """The boot ID of the machine, as its kubelet reports it."""


class Controller(NamedTuple):
    """The controller of a pod, for example ``ReplicaSet``, ``plex-7b5d9c6f8``."""

    kind: str
    name: str


class Api:
    """A cluster's API. Every call is bounded by ``seconds`` and raises KubernetesFailed."""

    def __init__(self, access: Access, seconds: float) -> None:
        """Does not connect yet."""
        self.access = access
        self.seconds = seconds
        self._client: Client | None = None  # its process imports requests once for all calls

    def namespace_annotations(self, name: str) -> dict[str, str] | None:
        """A namespace's annotations; None if there is no such namespace. ``name`` is a DNS label."""
        found = self.get(f"/api/v1/namespaces/{name}")
        return None if found is None else _strings(as_dict(found.get("metadata")).get("annotations"))

    def controller(self, namespace: str, pod: str, uid: str | None) -> Controller | None:
        """The controller of a pod; the pod itself (``Pod``) if it has no controller. None if the API has no pod of this name and UID."""
        found = self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
        metadata = as_dict(as_dict(found).get("metadata"))
        if found is None or (uid and metadata.get("uid") != uid):
            return None
        references = metadata.get("ownerReferences")
        for reference in map(as_dict, as_list(references)):
            kind, name = reference.get("kind"), reference.get("name")
            if reference.get("controller") is True and is_name(kind) and is_name(name):
                return Controller(str(kind), str(name))
        return Controller("Pod", pod)

    def node_of(self, namespace: str, pod: str, uid: str) -> str:
        """The name of the Node that a pod is on; empty if the API has no pod of this name and UID."""
        found = as_dict(self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}"))
        name = as_dict(found.get("spec")).get("nodeName")
        return str(name) if as_dict(found.get("metadata")).get("uid") == uid and is_name(name) else ""

    def node(self, name: str) -> Node | None:
        """The Node of that name; None if there is none, or if the name is invalid."""
        found = self.get(f"/api/v1/nodes/{name}") if is_name(name) else None
        if found is None:
            return None
        taints = as_list(as_dict(found.get("spec")).get("taints"))
        keys = [as_dict(taint).get("key") for taint in taints]
        status = as_dict(found.get("status"))
        conditions = map(as_dict, as_list(status.get("conditions")))
        ready = any(row.get("type") == "Ready" and row.get("status") == "True" for row in conditions)
        uid = as_word(as_dict(found.get("metadata")).get("uid"))
        boot = as_word(as_dict(status.get("nodeInfo")).get("bootID"))
        return Node(uid, OUT_OF_SERVICE in keys, ready, boot)

    def get(self, path: str) -> dict[str, Any] | None:
        """An object; None if it does not exist. ``path`` is relative to the server's URL and made of checked names."""
        answer = self.call("GET", path)
        return None if answer.status == 404 else self._object(f"GET {path}", answer)

    def change(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a POST, PUT or DELETE; return the API's answer. Raises Conflict, KubernetesForbids."""
        answer = self.call(method, path, body)
        if answer.status == 409 or (answer.status == 404 and method != "POST"):
            raise Conflict
        return self._object(f"{method} {path}", answer)

    @staticmethod
    def _object(what: str, answer: Answer) -> dict[str, Any]:
        # A POST gets a 404 if the namespace does not exist. A person has to create it, as with a permission.
        forbids = answer.status in (401, 403, 404)
        failed = errors.KubernetesForbids if forbids else errors.KubernetesFailed
        if not answer.ok:
            redirect = " (a redirect, which is not followed)" if 300 <= answer.status < 400 else ""
            raise failed(reason=f"{what}: {answer.status}: {answer.message}{redirect}")
        if not isinstance(answer.document, dict):
            raise errors.KubernetesFailed(reason=f"{what}: the answer is no object")
        return answer.document

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Send a request; return any answer. A redirect is not followed, so that the token goes to no other server."""
        from ..http.answer import NoAnswer
        from ..http.client import Client
        from ..http.tls import Tls

        access = self.access
        if self._client is None:
            tls = Tls(access.authority, access.certificate, access.key, strict=False)
            self._client = Client(access.base, max_answer=MAX_ANSWER, tls=tls)
        deadline = time.monotonic() + self.seconds
        try:
            return self._client.ask(method, path, deadline, token=access.token, body=body)
        except NoAnswer as e:
            raise errors.KubernetesFailed(reason=f"{access.base}: {e.reason}") from None


def _strings(value: object) -> dict[str, str]:
    return {key: text for key, text in as_dict(value).items() if isinstance(text, str)}


def is_name(value: object) -> bool:
    """Whether a value is the name of a kind or an object: a DNS name, or CamelCase."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_NAME
        and value.isascii()
        and value.replace("-", "0").replace(".", "0").isalnum()
        and all(value.split("."))  # no step of a path: "..", "."
    )
