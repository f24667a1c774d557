"""The few Kubernetes calls: a namespace's annotations, a pod's controller and Node, and what is kept in Secrets.

What a kubeconfig says is checked once, and what it cannot say here (exec plugins, passwords, no verification) is refused by name.
The API's answers are hostile until parsed: bounded in time and size, and of what is in them only strings are taken. Nothing here
shows a secret. What costs (ssl, http.client, yaml) is imported by whoever asks, in a process that no pod waits for long.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from . import errors
from .untrusted import as_dict, as_list, as_word

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from .web import Answer

LARGEST_FILE = 2**20
LARGEST_ANSWER = 8 * 2**20
"""etcd takes objects of 1.5 MiB; as JSON they can be longer."""
LONGEST_NAME = 253

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"

CLUSTER_KEYS = frozenset(("server", "certificate-authority", "certificate-authority-data", "extensions"))
USER_KEYS = frozenset(
    (
        "token",
        "tokenFile",
        "client-certificate",
        "client-certificate-data",
        "client-key",
        "client-key-data",
        "extensions",
    )
)


class Access(NamedTuple):
    """Where an API server is, and what shows who we are. ``authority`` is PEM; empty: whom the host trusts."""

    base: str
    """Its URL, and what is in front of ``/api``."""
    authority: str
    token: str
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """Never a secret."""
        return f"Access({self.base})"


class Conflict(Exception):
    """The object is not what it was when it was read, or not there any more, or there already."""


class Node(NamedTuple):
    """A Node object: the host's word, by its UID, for as long as nobody deletes it."""

    uid: str
    out_of_service: bool
    """Whether somebody vouches for it that nothing runs there (the taint node.kubernetes.io/out-of-service)."""
    ready: bool
    boot: str = ""
    """The boot of the machine that its kubelet runs on, by that's word."""


class Controller(NamedTuple):
    """Who made a pod: ``ReplicaSet``, ``plex-7b5d9c6f8``."""

    kind: str
    name: str


def load(path: str, root: str = "") -> Access:
    """What the current context of a kubeconfig says. Raises BadKubeconfig.

    It, and the files that it names, are looked for below ``root``. kubernetes.io/docs/reference/config-api/kubeconfig.v1
    """
    document = _document(path, root)
    context = _named(path, document, "context", document.get("current-context"))
    cluster = _named(path, document, "cluster", context.get("cluster"))
    user = _named(path, document, "user", context.get("user"))
    for given, known in ((cluster, CLUSTER_KEYS), (user, USER_KEYS)):
        for name, value in given.items():
            if value and name not in known:
                raise _bad(
                    path, f"{errors.show(name)} is not supported", "Use a token or a client certificate."
                )
    base = _server(path, cluster.get("server"))
    certificate = _content(path, user, "client-certificate", root)
    key = _content(path, user, "client-key", root, secret=True)
    if bool(certificate) != bool(key):
        raise _bad(path, "a client certificate and its key go together", "Give both or none.")
    authority = _content(path, cluster, "certificate-authority", root).decode("ascii", "replace")
    return Access(base, authority, _token(path, user, root), certificate, key)


def _document(path: str, root: str) -> Mapping[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(_read(path, path, root, secret=True).decode())
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        mark = getattr(e, "problem_mark", None)  # all else that it says may quote a token
        where = f"line {mark.line + 1} is not YAML" if mark else "it is not YAML"
        raise _bad(path, where) from None
    if not isinstance(document, dict):
        raise _bad(path, "it is not a map")
    return document


def _named(path: str, document: Mapping[str, Any], kind: str, name: object) -> Mapping[str, Any]:
    """The context, cluster or user of that name: each list has ``{name: …, KIND: {…}}``."""
    rows = document.get(f"{kind}s")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("name") == name and isinstance(row.get(kind), dict):
            found: Mapping[str, Any] = row[kind]
            return found
    raise _bad(
        path,
        f"it has no {kind} {errors.show(str(name))}",
        "Is current-context set? 'kubectl config view' shows it.",
    )


def _server(path: str, server: object) -> str:
    """Its URL, without a slash at its end. In clear only on this host: a token is a secret."""
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    try:
        url = urlsplit(str(server))
        host, tls = url.hostname or "", url.scheme == "https"
        _ = url.port
        valid = (
            bool(host)
            and "@" not in url.netloc
            and not url.query
            and str(server).isprintable()
            and " " not in str(server)
        )
        in_clear = url.scheme == "http" and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        valid = in_clear = tls = False
    if not (valid and (tls or in_clear)):
        raise _bad(
            path,
            f"the server {errors.show(str(server).rpartition('@')[2])} is no https URL",
            "Only a loopback address may be http.",
        )
    return url._replace(path=url.path.rstrip("/"), fragment="").geturl()


def _token(path: str, user: Mapping[str, Any], root: str) -> str:
    given = user.get("token") or ""
    if not given and user.get("tokenFile"):
        content = _read(path, _absolute(path, user["tokenFile"]), root, secret=True)
        given = content.decode("ascii", "replace").strip()
    if not isinstance(given, str) or not given.isascii() or not given.isprintable() or " " in given:
        raise _bad(path, "its token is none")
    return given


def _content(path: str, given: Mapping[str, Any], key: str, root: str, *, secret: bool = False) -> bytes:
    """``KEY-data``, which is base64, or what is in the file that ``KEY`` names; empty if there is neither."""
    if given.get(f"{key}-data"):
        try:
            return base64.b64decode(str(given[f"{key}-data"]), validate=True)
        except (binascii.Error, ValueError):
            raise _bad(path, f"{key}-data is not base64") from None
    return _read(path, _absolute(path, given[key]), root, secret=secret) if given.get(key) else b""


def _absolute(path: str, named: object) -> str:
    """A file that a kubeconfig names, from where it is itself."""
    if not isinstance(named, str) or not named.isprintable():
        raise _bad(path, "it names a file by something that is no path")
    return os.path.join(os.path.dirname(path), named)


def _read(kubeconfig: str, path: str, root: str, *, secret: bool = False) -> bytes:
    """What is in a file. Raises BadKubeconfig, also for a secret that others may read."""
    try:
        fd = os.open(root + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as f:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _bad(kubeconfig, f"{path} is not a file")
            if secret and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
                advice = f"It is a secret: 'chown root: {path}; chmod 600 {path}'."
                raise _bad(kubeconfig, f"{path} is not a file of root's alone", advice)
            content = f.read(LARGEST_FILE + 1)
    except OSError as e:
        raise _bad(kubeconfig, f"{path}: {e.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise _bad(kubeconfig, f"{path} is larger than {LARGEST_FILE} bytes")
    return content


def _bad(
    path: str, reason: str, advice: str = "docs/namespaces.md says how to make one."
) -> errors.BadKubeconfig:
    return errors.BadKubeconfig(path=path, reason=reason, advice=advice)


class Api:
    """A cluster's API. Every call is bounded by ``seconds`` and raises KubernetesFailed."""

    def __init__(self, access: Access, seconds: float) -> None:
        """Nothing is connected yet."""
        self.access = access
        self.seconds = seconds

    def namespace_annotations(self, name: str) -> dict[str, str] | None:
        """A namespace's annotations; None if there is no such namespace. ``name`` is a DNS label."""
        found = self.get(f"/api/v1/namespaces/{name}")
        return None if found is None else _strings(as_dict(found.get("metadata")).get("annotations"))

    def controller(self, namespace: str, pod: str, uid: str | None) -> Controller | None:
        """Who made a pod: itself (``Pod``) if nobody did; None if the API has not this pod, or another one of its name."""
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
        """The name of the Node that a pod is on; empty if the API has not this pod, or another one of its name."""
        found = as_dict(self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}"))
        name = as_dict(found.get("spec")).get("nodeName")
        return str(name) if as_dict(found.get("metadata")).get("uid") == uid and is_name(name) else ""

    def node(self, name: str) -> Node | None:
        """A Node; None if there is none of that name, or none can have it."""
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
        """An object; None if it is not there. ``path`` is below the server's and made of checked names."""
        answer = self.call("GET", path)
        return None if answer.status == 404 else self._object(f"GET {path}", answer)

    def change(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST, PUT or DELETE; what the API has made of it. Raises Conflict, KubernetesForbids."""
        answer = self.call(method, path, body)
        if answer.status == 409 or (answer.status == 404 and method != "POST"):
            raise Conflict
        return self._object(f"{method} {path}", answer)

    @staticmethod
    def _object(what: str, answer: Answer) -> dict[str, Any]:
        # A POST meets a 404 where the namespace is not there: a person's work, like a permission.
        forbids = answer.status in (401, 403, 404)
        failed = errors.KubernetesForbids if forbids else errors.KubernetesFailed
        if not answer.ok:
            raise failed(reason=f"{what}: {answer.status}: {answer.message}")
        if not isinstance(answer.document, dict):
            raise errors.KubernetesFailed(reason=f"{what}: the answer is no object")
        return answer.document

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Whatever is answered. A redirect is an answer like another: the token goes nowhere else."""
        from .web import NoAnswer, Server

        server = Server(self.access.base, largest=LARGEST_ANSWER, trust=self._context)
        deadline = time.monotonic() + self.seconds
        try:
            return server.ask(method, path, deadline, token=self.access.token, body=body)
        except NoAnswer as e:
            raise errors.KubernetesFailed(reason=f"{self.access.base}: {e.reason}") from None

    def _context(self) -> ssl.SSLContext:
        import ssl

        context = ssl.create_default_context(cadata=self.access.authority or None)
        context.verify_flags &= (
            ~ssl.VERIFY_X509_STRICT
        )  # Python 3.13 asks of clusters' own authorities what no other client does
        if self.access.certificate:
            pair = os.memfd_create("client")  # OpenSSL takes it from a file, and a key is not put on a disk
            try:
                os.write(pair, self.access.certificate + b"\n" + self.access.key)
                context.load_cert_chain(
                    f"/proc/self/fd/{pair}", password=lambda: b""
                )  # nobody is there to type one
            finally:
                os.close(pair)
        return context


def _strings(value: object) -> dict[str, str]:
    return {key: text for key, text in as_dict(value).items() if isinstance(text, str)}


def is_name(value: object) -> bool:
    """Of a kind or an object: a DNS name, or CamelCase."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_NAME
        and value.isascii()
        and value.replace("-", "0").replace(".", "0").isalnum()
        and all(value.split("."))  # no step of a path: "..", "."
    )
