"""A kubeconfig's current context: the API server's URL, and our credential there.

It is checked once. An error names each setting that this client does not support (exec plugins, passwords, no verification). No error
shows a secret.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FILE = 2**20
"""The largest kubeconfig, or file that it names, in bytes."""

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
    """An API server and our credential there. ``authority`` is PEM; empty means the authorities that the host trusts."""

    base: str
    """The server's URL, up to ``/api``."""
    authority: str
    token: str
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """The server's URL, without secrets."""
        return f"Access({self.base})"


def load(path: str, root: str = "") -> Access:
    """Read the current context of a kubeconfig. Raises BadKubeconfig.

    The paths of the kubeconfig and of the files that it names are below ``root``. kubernetes.io/docs/reference/config-api/kubeconfig.v1
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
        mark = getattr(e, "problem_mark", None)  # the rest of the error may quote a token
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
    """The server's URL, without a slash at its end. Because a token is a secret, http is only allowed on this host."""
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
    """The decoded base64 of ``KEY-data``, or the content of the file that ``KEY`` names; empty if both are missing."""
    if given.get(f"{key}-data"):
        try:
            return base64.b64decode(str(given[f"{key}-data"]), validate=True)
        except (binascii.Error, ValueError):
            raise _bad(path, f"{key}-data is not base64") from None
    return _read(path, _absolute(path, given[key]), root, secret=secret) if given.get(key) else b""


def _absolute(path: str, named: object) -> str:
    """The path of a file that a kubeconfig names, relative to the kubeconfig."""
    if not isinstance(named, str) or not named.isprintable():
        raise _bad(path, "it names a file by something that is no path")
    return os.path.join(os.path.dirname(path), named)


def _read(kubeconfig: str, path: str, root: str, *, secret: bool = False) -> bytes:
    """The content of a file. Raises BadKubeconfig, also for a secret that other users may read."""
    try:
        fd = os.open(root + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as f:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _bad(kubeconfig, f"{path} is not a file")
            if secret and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
                advice = f"It is a secret: 'chown root: {path}; chmod 600 {path}'."
                raise _bad(kubeconfig, f"{path} is not a file of root's alone", advice)
            content = f.read(MAX_FILE + 1)
    except OSError as e:
        raise _bad(kubeconfig, f"{path}: {e.strerror}") from None
    if len(content) > MAX_FILE:
        raise _bad(kubeconfig, f"{path} is larger than {MAX_FILE} bytes")
    return content


def _bad(
    path: str, reason: str, advice: str = "docs/namespaces.md says how to make one."
) -> errors.BadKubeconfig:
    return errors.BadKubeconfig(path=path, reason=reason, advice=advice)
