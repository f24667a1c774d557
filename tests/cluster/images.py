"""Builds container images from a few files, in the format of `docker save`, which `ctr images import` reads.

No registry and no network are needed, and the same files give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from builds.go import machine_goarch

APPLETS: Final = ("cat", "hostname", "httpd", "ip", "nc", "nslookup", "ping", "ps", "sh", "sleep", "wget")


@dataclass(frozen=True)
class Image:
    """The image `localhost/NAME:test` that runs COMMAND."""

    name: str
    command: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The name by which pods refer to the image."""
        return f"localhost/{self.name}:test"

    def archive(self, files: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
        """The image as an archive: one layer with executable FILES {path in the image: local file} and LINKS {path: target}."""
        layer = _tar(
            {name: path.read_bytes() for name, path in files.items()}, links, directories=("tmp", "www")
        )
        layer_id = hashlib.sha256(layer).hexdigest()
        config = self._config(layer_id)
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = [{"Config": config_name, "RepoTags": [self.reference], "Layers": [f"{layer_id}.tar"]}]
        return _tar(
            {config_name: config, f"{layer_id}.tar": layer, "manifest.json": json.dumps(manifest).encode()}
        )

    def _config(self, layer_id: str) -> bytes:
        return json.dumps(
            {
                "architecture": machine_goarch(),
                "os": "linux",
                "created": "2026-01-01T00:00:00Z",
                "config": {"Env": ["PATH=/bin"], "Cmd": list(self.command)},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_id}"]},
                "history": [{"created": "2026-01-01T00:00:00Z"}],
            }
        ).encode()


def _tar(
    files: Mapping[str, bytes], links: Mapping[str, str] = {}, directories: tuple[str, ...] = ()
) -> bytes:
    buffer = io.BytesIO()
    parents = {str(parent) for name in (*files, *links) for parent in PurePosixPath(name).parents}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in sorted(({*directories} | parents) - {"."}):
            tar.addfile(_entry(name, tarfile.DIRTYPE))
        for name, data in files.items():
            entry = _entry(name, tarfile.REGTYPE)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for name, target in links.items():
            entry = _entry(name, tarfile.SYMTYPE)
            entry.linkname = target
            tar.addfile(entry)
    return buffer.getvalue()


def _entry(name: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = 0o1777 if name == "tmp" else 0o755
    return entry
