"""An API server for tests. It serves the requests of the plugin over TLS, or over HTTP on loopback. tests/cluster has the real one."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

TOKEN = "eyJ.a-token.of_the-tests"


class ApiServer:
    """Answers requests from ``objects``, by path, if the client sends the token or has a certificate.

    An object that is an int is a status, and bytes are sent as they are. ``asked`` has the paths and ``bodies`` the request bodies.
    While ``hang`` is not set, an answer is up to 30 seconds late.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.objects: dict[str, Any] = {}
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.hang = threading.Event()
        self.hang.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.do_GET()

            def do_PUT(self) -> None:
                self.do_POST()

            def do_DELETE(self) -> None:
                self.do_POST()

            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.hang.wait(30)
                by_certificate = isinstance(self.connection, ssl.SSLSocket) and self.connection.getpeercert()
                known = by_certificate or self.headers["Authorization"] == f"Bearer {TOKEN}"
                answer = server.objects.get(self.path, 404) if known else 401
                status = answer if isinstance(answer, int) else 200
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                if isinstance(answer, int):
                    body = json.dumps({"kind": "Status", "message": f"the reason of {answer}"}).encode()
                self.send_response(status)
                if status in (301, 302):
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Write no access log."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Refuse connections from here on."""
        self.hang.set()
        self._http.shutdown()
        self._http.server_close()

    def namespace(self, name: str, annotations: Mapping[str, str] | None) -> None:
        """Add a namespace with these annotations. None removes the namespace."""
        metadata = {"name": name, "annotations": annotations}
        path = f"/api/v1/namespaces/{name}"
        self.objects[path] = (
            404 if annotations is None else {"kind": "Namespace", "apiVersion": "v1", "metadata": metadata}
        )

    def pod(self, namespace: str, name: str, **metadata: Any) -> None:
        """Add a pod with this metadata."""
        self.objects[f"/api/v1/namespaces/{namespace}/pods/{name}"] = {"kind": "Pod", "metadata": metadata}


def kubeconfig(path: Path, server: str, user: Mapping[str, Any] = {"token": TOKEN}, **cluster: Any) -> Path:
    """Write a kubeconfig that only root can read, and return its path."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "other", "user": {}}, {"name": "u", "user": dict(user)}],
    }
    path.touch(0o600)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Returns the paths of a self-signed certificate for 127.0.0.1 and of its key."""
    pem, key = directory / f"{name}.crt", directory / f"{name}.key"
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*request, *names, "-keyout", key, "-out", pem], check=True, capture_output=True)
    key.chmod(0o600)
    return pem, key
