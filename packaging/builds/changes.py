"""What the programs of a pod are built of, where it is not the files of others as they are.

Go's runtime and WireGuard are made for programs with a large heap and much traffic; on a homelab a host has dozens of ours, and most are
idle. Each change is to one file, that is known by its content: a new one fails the build, until somebody has judged the change anew.
docs/performance.md says what they are good for.
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

GO = ""
"""The `module` of Go's own library."""


class Change(NamedTuple):
    """A change to a file of a Go module."""

    module: str
    file: str
    sha256: str
    """Of the file, in hexadecimal digits."""
    texts: Mapping[str, str]
    """`{text: other text}`; each text is there once."""
    beside: tuple[str, ...] = ()
    """Files of ours that come into the same directory, by their paths in workers/."""


SMALL_SPAN_SETS = Change(
    GO,
    "runtime/mspanset.go",
    "85faad45efe16dc88c72253e6279f58e2cb161d948534dda5c47672243ad367a",
    {
        "spanSetBlockEntries = 512 ": "spanSetBlockEntries = 64 ",
        "spanSetInitSpineCap = 256 ": "spanSetInitSpineCap = 8 ",
    },
)
"""Go's runtime keeps the spans of each size of object in four sets, and a set has room for 512 spans (4.5 kB) and a list of 256 such
rooms (2 kB) from its first one: hundreds of sets, and most hold one or two. With 64 (1 kB) and 8 a worker holds a fifth less memory.
A set that grows gets more rooms, and a list twice as long. One bound is lower: while a room is being added, as many threads as
a room has places can wait for it, and not one more, or they would skip a room. They are as many as the process uses cores
(`coresToUse` of the worker).
"""

_WHOLE_PAGES = "size >= 64<<10 && (uintptr(x)|size)&(physPageSize-1) == 0"

CLEARED_BY_THE_KERNEL = Change(
    GO,
    "runtime/malloc.go",
    "67e74184452cc6cb5bedee04fbbd6f395822e1cffbb4f91ad4a484796d7f021f",
    {
        "\t\tmemclrNoHeapPointersChunked(size, x) //": (
            f"\t\tif {_WHOLE_PAGES} && madvise(x, size, _MADV_DONTNEED) == 0 {{\n"
            "\t\t} else {\n\t\t\tmemclrNoHeapPointersChunked(size, x)\n\t\t} //"
        )
    },
)
"""An object of 64 KiB whose memory was in use before is filled with zeros, and then has 16 pages; of most of its buffers WireGuard uses
one. The kernel takes the pages back instead, and gives those that are touched, with zeros, as of new memory. They have to be whole pages: a
kernel's may be larger than Go's (8 kB).
"""

WIREGUARD = "github.com/tailscale/wireguard-go"

WRITEV_WITHOUT_GARBAGE = Change(
    WIREGUARD,
    "tun/tun_linux.go",
    "7357ed203ed64218a9073329138e87d69f7f7707a32bb8622a4e91c4cf0697ac",
    {"unix.Writev(int(fd), nb)": "writev(fd, nb)"},
    ("changes/tun/writev.go",),
)
"""What joins packets for the interface hands a list of them to the kernel for each frame."""

SHORT_QUEUES = Change(
    WIREGUARD,
    "device/queueconstants_default.go",
    "7219791995b46b0050218e5600804f8d12ed790e3101a0e3b60e50a0ad94819f",
    {
        "QueueOutboundSize          = 1024": "QueueOutboundSize          = 16",
        "QueueInboundSize           = 1024": "QueueInboundSize           = 16",
    },
)
"""Each place is for up to 128 packets of 64 KiB: a thousand places are never needed, but fill where one end is slower than the other.
(Tailscale's own program for iOS has 64.) A device that is closed under traffic might wait for itself then: a worker's is when its
interface is gone, which ends the process.
"""

_SEND = "peer.processOutboundContainer(elemsContainer, bufs[:0])"

SENDERS_LET_GO = Change(
    WIREGUARD,
    "device/send.go",
    "4fefea22a449a513c0a0e6c1cb32a522dd1e8008057def34cd30e939c381b8d2",
    {_SEND: f"{_SEND}\n\t\tclear(bufs[:cap(bufs)])"},
)
"""A list names what was sent to a peer last. These buffers are in their pool again, and could not leave it."""

_RECEIVE = "count, err = recv(bufs, sizes, endpoints)"
_DELIVER = "peer.processInboundContainer(elemsContainer, bufs[:0])"

RECEIVERS_LET_GO = Change(
    WIREGUARD,
    "device/receive.go",
    "0e8305f7ce88fcbdc8e2d5d8a0d5310e58a244117066f731f5c03715062e99cc",
    {
        "\t\tdeathSpiral int\n": "\t\tdeathSpiral int\n\t\tbuffers     lent\n",
        _RECEIVE: f"buffers.wait(bufs)\n\t\t{_RECEIVE}\n\t\tbuffers.wake(count)",
        _DELIVER: f"{_DELIVER}\n\t\tclear(bufs[:cap(bufs)])",
    },
    ("changes/device/lent.go",),
)
"""The same list of what came from a peer last; and the buffers in which the next packets are awaited, 128 for each kind of address, which
had a page each for good.
"""

CHANGES = (
    SMALL_SPAN_SETS,
    CLEARED_BY_THE_KERNEL,
    WRITEV_WITHOUT_GARBAGE,
    SHORT_QUEUES,
    SENDERS_LET_GO,
    RECEIVERS_LET_GO,
)


def apply(
    changes: tuple[Change, ...], go: Path, module: Path, scratch: Path, env: dict[str, str]
) -> tuple[Path, list[str]]:
    """Make a copy of `module` to build, with the modules beside it that are changed; the copy, and the options for Go's own library.

    `go` is the command of the toolchain, `scratch` an empty directory. Raises ValueError if a file is not the one that is to be changed.
    """
    copy = scratch / module.name
    _copy(module, copy)
    library = go.parent.parent / "src"
    replaced: dict[str, str] = {}
    for change in changes:
        if change.module == GO:
            file, changed = library / change.file, scratch / f"{len(replaced)}.go"
            if str(file) in replaced:
                raise ValueError(f"{file} is to be changed twice")
            changed.write_text(_changed(file, change), encoding="utf-8")
            replaced[str(file)] = str(changed)
            continue
        theirs = scratch / Path(change.module).name
        if not theirs.exists():
            _copy(_directory(go, change, module, env), theirs)
            with (copy / "go.mod").open("a", encoding="utf-8") as requirements:
                requirements.write(f"\nreplace {change.module} => ../{theirs.name}\n")
        file = theirs / change.file
        file.write_text(_changed(file, change), encoding="utf-8")
        for name in change.beside:
            file.with_name(Path(name).name).write_bytes((module / name).read_bytes())
    overlay = scratch / "overlay.json"
    overlay.write_text(json.dumps({"Replace": replaced}), encoding="utf-8")
    return copy, [f"-overlay={overlay}"]


def _copy(folder: Path, to: Path) -> None:
    """With modes of ours: nothing in the module cache may be written to."""
    for path in folder.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def _directory(go: Path, change: Change, module: Path, env: dict[str, str]) -> Path:
    """Where the module cache has a module, of the version that ours requires, and of the content that its go.sum has."""
    package = f"{change.module}/{Path(change.file).parent}"
    command = [str(go), "list", "-mod=readonly", "-find", "-f={{.Module.Dir}}", package]
    done = subprocess.run(command, cwd=module, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip())


def _changed(file: Path, change: Change) -> str:
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != change.sha256:
        raise ValueError(f"{file} is another one than was changed: the change must be judged anew")
    text = content.decode()
    for known, other in change.texts.items():
        if text.count(known) != 1:
            raise ValueError(f"{known!r} is not once in {file}")
        text = text.replace(known, other)
    return text
