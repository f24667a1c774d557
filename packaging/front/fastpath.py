"""The fast path: answer the CNI call for a pod that is not enrolled, from local files, in the start-up time of a bare Python.

This is the first code of every call. `launcher.sh` passes its text to an interpreter (`-IS -c`), and as arguments the text of
bootstrap.py, the artefact's path and the command line. The code must not import slow modules (`json` alone doubles the time), open the
archive, take locks or write files. It must not answer a call that the real path (`tailscale_cni.cni.dispatch`) might answer differently.
In every doubt it runs bootstrap.py, which passes the data already read from standard input to the real path. docs/internals.md lists
the calls that it answers.

A doubt is any exception, such as a failed assertion (`-I` ensures that assertions are enabled) or a missing key. `_json` is a private
module of CPython; if it does not behave as expected, that is a doubt too.

Most of the run time is spent on compiling this text, so it is short: code that runs once is not a function, and no check repeats what
another one implies. Types are comments for the same reason. The build removes comments, docstrings and the lines marked as left out, and
rejects single quotes.
"""

import posix
import sys
from collections.abc import Mapping  # left out by the build
from typing import Any  # left out by the build


def is_name(text):  # type: (Any) -> bool
    """Whether `text` is a valid name of a network or container, and safe as part of a path."""
    return (
        type(text) is str
        and len(text) <= 200
        and text[0].isalnum()
        and text.isascii()
        and text.replace("-", "0").replace("_", "0").replace(".", "0").isalnum()
    )


def unique(pairs):  # type: (Any) -> dict[str, Any]
    """A JSON object as a dict. Duplicate keys are a doubt."""
    result = dict(pairs)
    assert len(result) == len(pairs)
    return result


def parse(data):  # type: (bytes) -> dict[str, Any]
    """Parse a JSON object. `chr` rejects text, so fractions (which a float may change) and NaN are doubts."""
    from _json import make_scanner

    text = data.decode().strip(" \t\r\n")
    assert "\\ud" not in text and "\\uD" not in text
    rules = {"strict": True, "object_hook": None, "object_pairs_hook": unique}  # type: dict[str, Any]
    rules.update(parse_int=int, parse_float=chr, parse_constant=chr)
    value, end = make_scanner(type("Rules", (), rules))(text, 0)  # type: ignore[arg-type]
    assert end == len(text) and type(value) is dict
    return value


def read(descriptor):  # type: (int) -> bytes
    """Read a descriptor to its end, or to a little more than 1 MiB, which is a doubt."""
    data = chunk = posix.read(descriptor, 65536)
    while chunk and len(data) <= 1048576:
        chunk = posix.read(descriptor, 65536)
        data += chunk
    return data


def fingerprint(path):  # type: (str) -> list[int] | None
    """[mtime in nanoseconds, size, inode] of a file, which change when the file changes; None if there is no file."""
    try:
        status = posix.stat(path)
    except FileNotFoundError:
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def answer(environ, entry, state_dir):  # type: (Mapping[bytes, bytes], dict[str, Any], str) -> bytes
    """The answer to the runtime. Raises any exception if the real path must answer."""
    verb, container_id, ifname, netns, path, args = [
        environ.get(b"CNI_" + name, b"").decode("ascii")
        for name in (b"COMMAND", b"CONTAINERID", b"IFNAME", b"NETNS", b"PATH", b"ARGS")
    ]
    assert (netns + path + args).isprintable() and is_name(container_id)
    # Interfaces may have stranger names; those are a doubt.
    assert len(ifname) <= 15 and is_name(ifname)
    assert netns[0] == "/" and len(netns) < 4096 and "/../" not in netns + "/" if netns else verb == "DEL"
    if args:
        known = unique([pair.split("=") for pair in args.split(";")])
        namespace, name = known["K8S_POD_NAMESPACE"], known["K8S_POD_NAME"]
        assert known["IgnoreUnknown"] == "1" and all(known) and is_name(known.get("K8S_POD_UID", "0"))
        assert len(namespace) < 64 and "." not in namespace and len(name) <= 253
        for label in [namespace, *name.split(".")]:
            assert label == label.lower().strip("-") and label.replace("-", "0").isalnum()

    # The entry must have a valid name and version, and no settings.
    protocol = (
        "type name cniVersion capabilities prevResult runtimeConfig ipam dns args stateDir runDir configFile"
    )
    assert set(protocol.split()).issuperset(entry) and is_name(entry["name"])
    version, result = entry["cniVersion"], entry.get("prevResult")  # type: str, Any
    assert version in ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
    assert verb == "DEL" or result["cniVersion"] == version
    assert result is None or type(result) is dict
    for key in ("runDir", "configFile"):
        assert is_path(entry.get(key, "/"))

    # The pod must not ask to be enrolled, and the host must not enroll pods that do not ask.
    config_file = entry.get("configFile", "/etc/tailscale-cni/config.yaml")
    flags = (
        posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK
    )  # a FIFO is a doubt, and must not hold the call
    try:
        known = parse(read(posix.open(state_dir + "/enroll.json", flags)))
    except FileNotFoundError:
        known = {"version": 1, "enroll": "annotated", "watch": {config_file: None}}
    assert known["version"] == 1 and config_file in known["watch"]
    for path, then in known["watch"].items():
        assert fingerprint(path) == then
    annotations = entry.get("runtimeConfig", {}).get("io.kubernetes.cri.pod-annotations")
    if annotations is None:
        annotations = {}
    assert all(type(value) is str for value in annotations.values())
    if verb != "DEL":
        assert annotations.get("tailscale.com/enabled", "false") == "false"
        if known["enroll"] == "asked" and namespace not in known["except"]:
            from time import monotonic

            # The namespace's last known annotations must not enroll it either.
            path = state_dir + "/namespaces/" + namespace + ".json"
            known = parse(read(posix.open(path, flags)))
            assert known["asked"] <= monotonic() < known["until"]
        assert known["enroll"] in ("annotated", "asked")

    if verb == "ADD":
        from _json import encode_basestring_ascii, make_encoder

        encode = make_encoder(None, chr, encode_basestring_ascii, None, ":", ",", False, False, False)
        return "".join(encode(result, 0)).encode() + b"\n"
    assert verb == "DEL" or (verb == "CHECK" and version >= "0.4.0")
    # ADD must not have recorded an attachment for the container.
    assert fingerprint(state_dir + "/attachments/" + container_id) is None
    return b""


def is_path(text):  # type: (str) -> bool
    """Whether `text` is an absolute path without `..`."""
    return text[0] == "/" and text.isprintable() and "/../" not in text + "/"


if __name__ == "__main__":
    data, state_dir = b"", None
    if b"CNI_COMMAND" in posix.environ and sys.version_info >= (3, 10):
        try:
            assert not posix.isatty(0)
            data = read(0)
            assert len(data) <= 1048576
            entry = parse(data)
            path = entry.get("stateDir", "/var/lib/tailscale-cni")
            assert is_path(path)
            state_dir = path
            text = answer(posix.environ, entry, path)
            sent = posix.write(1, text)
        except BaseException:
            pass
        else:
            posix._exit(sent != len(text))
    exec(sys.argv[1])
