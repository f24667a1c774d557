"""The pass-through: answers the CNI call for a pod that is not enrolled, from local files, at the price of a bare Python.

This is the first code of every call. `stub.sh` hands its text to an interpreter (`-IS -c`); onward.py's text, the
artefact's own path and the command line are its arguments. It must not import anything that costs (`json` alone
doubles the time), must not open the archive, lock or write anything, and must not answer where the real path
(`tailscale_cni.cni.dispatch`) might answer otherwise: at every doubt it goes on there, with what it has read of
standard input. docs/architecture.md, "The door", says what it may answer.

A doubt is an exception, of any kind: an assertion (`-I` makes sure that they are on), a key that is not there. `_json` is
CPython's own, and private: whatever it does not do as expected is a doubt too.

Compiling this text is most of what it costs, so it is short: no function for what is done once, no check that another
one implies. Types are comments for the same reason. The build removes comments, docstrings, and lines that say so, and
refuses single quotes.
"""

import posix
import sys
from collections.abc import Mapping  # left out by the build
from typing import Any  # left out by the build


def is_name(text):  # type: (Any) -> bool
    """Whether this may be the name of a network or a container: also, whether it may be part of a path."""
    return (
        type(text) is str
        and len(text) <= 200
        and text[0].isalnum()
        and text.isascii()
        and text.replace("-", "0").replace("_", "0").replace(".", "0").isalnum()
    )


def unique(pairs):  # type: (Any) -> dict[str, Any]
    """A JSON object as a dict, if no key is there twice."""
    result = dict(pairs)
    assert len(result) == len(pairs)
    return result


def parse(data):  # type: (bytes) -> dict[str, Any]
    """The JSON object in these bytes. `chr` takes no text: fractions (a float may change them) and NaN are doubts."""
    from _json import make_scanner

    text = data.decode().strip(" \t\r\n")
    assert "\\ud" not in text and "\\uD" not in text
    rules = {"strict": True, "object_hook": None, "object_pairs_hook": unique}  # type: dict[str, Any]
    rules.update(parse_int=int, parse_float=chr, parse_constant=chr)
    value, end = make_scanner(type("Rules", (), rules))(text, 0)  # type: ignore[arg-type]
    assert end == len(text) and type(value) is dict
    return value


def read(descriptor):  # type: (int) -> bytes
    """What there is to read: all of it, or the first megabyte and a little more, which is a doubt."""
    data = chunk = posix.read(descriptor, 65536)
    while chunk and len(data) <= 1048576:
        chunk = posix.read(descriptor, 65536)
        data += chunk
    return data


def fingerprint(path):  # type: (str) -> list[int] | None
    """What shows that a file is another one by now; None if there is none."""
    try:
        status = posix.stat(path)
    except FileNotFoundError:
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def answer(environ, entry, state_dir):  # type: (Mapping[bytes, bytes], dict[str, Any], str) -> bytes
    """What the runtime gets, as bytes. Raises an exception of any kind where the real path must answer."""
    verb, container_id, ifname, netns, path, args = [
        environ.get(b"CNI_" + name, b"").decode("ascii")
        for name in (b"COMMAND", b"CONTAINERID", b"IFNAME", b"NETNS", b"PATH", b"ARGS")
    ]
    assert (netns + path + args).isprintable() and is_name(container_id)
    # Of the names that an interface can have, those that are beyond doubt.
    assert len(ifname) <= 15 and is_name(ifname)
    assert netns[0] == "/" and len(netns) < 4096 and "/../" not in netns + "/" if netns else verb == "DEL"
    if args:
        known = unique([pair.split("=") for pair in args.split(";")])
        namespace, name = known["K8S_POD_NAMESPACE"], known["K8S_POD_NAME"]
        assert known["IgnoreUnknown"] == "1" and all(known) and is_name(known.get("K8S_POD_UID", "0"))
        assert len(namespace) < 64 and "." not in namespace and len(name) <= 253
        for label in [namespace, *name.split(".")]:
            assert label == label.lower().strip("-") and label.replace("-", "0").isalnum()

    # The entry has a name and a version that are beyond doubt, and no setting of its own.
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

    # The pod does not ask to be a node, and the host enrols none that does not ask.
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

            # Nor has its namespace said so, when it was asked last.
            path = state_dir + "/namespaces/" + namespace + ".json"
            known = parse(read(posix.open(path, flags)))
            assert known["asked"] <= monotonic() < known["until"]
        assert known["enroll"] in ("annotated", "asked")

    if verb == "ADD":
        from _json import encode_basestring_ascii, make_encoder

        encode = make_encoder(None, chr, encode_basestring_ascii, None, ":", ",", False, False, False)
        return "".join(encode(result, 0)).encode() + b"\n"
    assert verb == "DEL" or (verb == "CHECK" and version >= "0.4.0")
    # ADD recorded nothing for the container.
    assert fingerprint(state_dir + "/attachments/" + container_id) is None
    return b""


def is_path(text):  # type: (str) -> bool
    """Whether this is an absolute path that leads where it says."""
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
