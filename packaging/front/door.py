"""The pass-through: answers the CNI call for a pod that is not enrolled, from local files, at the price of a bare Python.

This is the first code of every call. `stub.sh` hands its text to an interpreter (`-IS -c`), with `onward.py`, the
artefact's own path and the arguments behind it. It must not import anything that costs (`json` alone doubles the
time), must not open the archive, lock or write anything, and must not answer where the real path
(`tailscale_cni.cni.dispatch`) might answer otherwise: at every doubt it goes on there, with what it has read of
standard input. docs/architecture.md, "The door", says what it may answer.

`_json` is CPython's own, and private: whatever it does not do as expected is a doubt. Functions are called with
what they need to know, so that each can be tried alone. The syntax is that of Python 3.6, because whichever
`python3` a host has reads it first. The build removes comments and docstrings, and refuses single quotes.
"""

import sys

import posix

PYTHONS = "@PYTHONS@"
LIMIT = 1 << 20
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
PROTOCOL = {"type", "name", "cniVersion", "capabilities", "prevResult", "runtimeConfig", "ipam", "dns", "args"}
ROOTS = {
    "stateDir": "/var/lib/tailscale-cni",
    "runDir": "/run/tailscale-cni",
    "configFile": "/etc/tailscale-cni/config.yaml",
}
ARGS = {"IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"}
PRINTABLE = {chr(code) for code in range(33, 127)}
NAME = {c for c in PRINTABLE if c.isalnum()} | set("_.-")


class Doubt(Exception):
    """Something that is for the real path to judge."""


def sure(condition):
    """Go on only if it holds."""
    if not condition:
        raise Doubt


def read(descriptor):
    """What there is to read, as bytes: all of it if it is at most LIMIT, else a little more than that."""
    data = chunk = posix.read(descriptor, 65536)
    while chunk and len(data) <= LIMIT:
        chunk = posix.read(descriptor, 65536)
        data += chunk
    return data


def unique(pairs):
    """A JSON object as a dict, if no key is there twice."""
    result = dict(pairs)
    sure(len(result) == len(pairs))
    return result


def refuse(_):
    """For what a configuration does not contain: fractions (a float may change them), NaN, things without JSON."""
    raise Doubt


class Rules:
    """How `_json` reads: as json.JSONDecoder would, with our own judgement of objects and numbers."""

    strict = True
    object_hook = None
    object_pairs_hook = unique
    parse_float = parse_constant = refuse
    parse_int = int


def parse(data):
    """The JSON object in these bytes."""
    import _json

    text = data.decode().strip(" \t\r\n")
    sure("\\ud" not in text and "\\uD" not in text)
    value, end = _json.make_scanner(Rules)(text, 0)
    sure(end == len(text) and type(value) is dict)
    return value


def encode(value):
    """The value as JSON, in ASCII, with a newline: the same bytes as cni.document.encode."""
    import _json

    quote = _json.encode_basestring_ascii
    chunks = _json.make_encoder(None, refuse, quote, None, ":", ",", False, False, False)(value, 0)
    return "".join(chunks).encode() + b"\n"


def roots(entry):
    """stateDir, runDir and configFile of this conflist entry."""
    paths = {key: entry.get(key, default) for key, default in ROOTS.items()}
    for path in paths.values():
        sure(type(path) is str and path[:1] == "/" and path.isprintable() and "/../" not in path + "/")
    return paths


def variable(environ, name):
    """An environment variable as text; empty if it is not set. Nothing but printable ASCII is beyond doubt."""
    text = environ.get(name.encode(), b"").decode("ascii")
    sure(PRINTABLE.issuperset(text))
    return text


def is_name(text):
    """Whether this is a network's or a container's name, of a length that a file name can have."""
    return 0 < len(text) <= 200 and NAME.issuperset(text) and text[0].isalnum()


def check_environment(environ, verb):
    """Every variable that the verb needs is there, and all are well-formed. Returns the container ID."""
    container_id = variable(environ, "CNI_CONTAINERID")
    ifname = variable(environ, "CNI_IFNAME")
    netns = variable(environ, "CNI_NETNS")
    variable(environ, "CNI_PATH")
    sure(is_name(container_id))
    sure(0 < len(ifname) <= 15 and ifname not in (".", "..") and "/" not in ifname and ":" not in ifname)
    if netns or verb != "DEL":
        sure(netns[:1] == "/" and len(netns) < 4096 and "/../" not in netns + "/")
        check_netns(netns, verb)
    check_args(variable(environ, "CNI_ARGS"))
    return container_id


def check_netns(path, verb):
    """The namespace is there, unless it is to be deleted, and is not the one that we are in."""
    try:
        there = posix.stat(path)
    except FileNotFoundError:
        sure(verb == "DEL")
        return
    own = posix.stat("/proc/self/ns/net")
    sure((there.st_dev, there.st_ino) != (own.st_dev, own.st_ino))


def check_args(text):
    """CNI_ARGS is what a kubelet's runtime sends: K=V;K=V, each of the known keys once at most, values that are names."""
    if not text:
        return
    args = unique([pair.split("=") for pair in text.split(";")])
    sure(ARGS.issuperset(args) and args.pop("IgnoreUnknown", "1") in ("1", "true"))
    sure(("K8S_POD_NAMESPACE" in args) == ("K8S_POD_NAME" in args))
    for value in args.values():
        sure(is_name(value) and value.islower() or value.isdigit())
        sure(all(label and label[0] != "-" and label[-1] != "-" for label in value.split(".")))
        sure("_" not in value)
    sure(len(args.get("K8S_POD_NAMESPACE", "")) <= 63 and "." not in args.get("K8S_POD_NAMESPACE", ""))


def check_entry(entry, verb):
    """The conflist entry has a version and a name that are beyond doubt, and no settings. Returns prevResult."""
    sure(all(key in PROTOCOL or key in ROOTS or "/" in key for key in entry))
    version = entry["cniVersion"]
    sure(version in VERSIONS and not (verb == "CHECK" and version < "0.4.0"))
    sure(type(entry["name"]) is str and is_name(entry["name"]))
    result = entry.get("prevResult")
    if result is not None or verb != "DEL":
        sure(type(result) is dict and result["cniVersion"] == version)
    return result


def inner(value, key):
    """The object at a key of an object; an empty one if it is absent or null."""
    result = value.get(key)
    sure(result is None or type(result) is dict)
    return result or {}


def check_annotations(entry):
    """The pod does not ask to be a node."""
    annotations = inner(inner(entry, "runtimeConfig"), "io.kubernetes.cri.pod-annotations")
    sure(all(type(value) is str for value in annotations.values()))
    sure(annotations.get("tailscale.com/enabled", "false") == "false")


def fingerprint(path):
    """What shows that a file is another one by now; None if there is none."""
    try:
        status = posix.stat(path)
    except FileNotFoundError:
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def check_host(paths, verb):
    """The host enrols no pod that does not ask for it, and nothing has changed since that was written down."""
    try:
        descriptor = posix.open(paths["stateDir"] + "/enroll.json", posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except FileNotFoundError:
        sure(fingerprint(paths["configFile"]) is None)
        return
    known = parse(read(descriptor))
    sure(known["version"] == 1 and (known["enroll"] == "annotated" or verb == "DEL"))
    sure(paths["configFile"] in known["watch"])
    for path, then in known["watch"].items():
        sure(fingerprint(path) == then)


def check_no_attachment(state_dir, container_id):
    """ADD recorded nothing for the container."""
    try:
        posix.lstat(state_dir + "/attachments/" + container_id)
    except FileNotFoundError:
        return
    raise Doubt


def answer(environ, entry, paths):
    """What the runtime gets, as bytes. Raises an exception of any kind where the real path must answer."""
    verb = environ[b"CNI_COMMAND"].decode()
    sure(verb in ("ADD", "DEL", "CHECK"))
    result = check_entry(entry, verb)
    container_id = check_environment(environ, verb)
    if verb != "DEL":
        check_annotations(entry)
    check_host(paths, verb)
    if verb == "ADD":
        return encode(result)
    check_no_attachment(paths["stateDir"], container_id)
    return b""


def write(descriptor, data):
    """All of it. An error before the first byte is a doubt, a later one is the end."""
    sent = posix.write(descriptor, data) if data else 0
    try:
        while sent < len(data):
            sent += posix.write(descriptor, data[sent:])
    except OSError:
        posix._exit(1)


def pass_through(environ):
    """Answer the call and end, or return what has been read of standard input and the stateDir, if there is one."""
    data, state_dir = b"", None
    try:
        sure(not posix.isatty(0))
        data = read(0)
        sure(len(data) <= LIMIT)
        entry = parse(data)
        paths = roots(entry)
        state_dir = paths["stateDir"]
        write(1, answer(environ, entry, paths))
    except Exception:
        return data, state_dir
    posix._exit(0)


def with_newer_python():
    """This Python is too old: hand the same command line to the next one that stub.sh would have tried."""
    pythons = PYTHONS.split()
    with open("/proc/self/cmdline", "rb") as file:
        line = file.read().split(b"\0")[1:-1]
    for python in pythons[pythons.index(sys.executable) + 1 :] if sys.executable in pythons else pythons:
        try:
            posix.execv(python, [python.encode()] + line)
        except OSError:
            pass
    if b"CNI_COMMAND" in posix.environ:
        print("{\"cniVersion\":\"1.0.0\",\"code\":50,\"msg\":\"there is no Python 3.10 or newer\"}")
    sys.exit("tailscale-cni: there is no Python 3.10 or newer")


def main(onward, *arguments):
    """The two ways of a call: short, or on into the archive with the text of onward.py."""
    if sys.version_info < (3, 10):
        with_newer_python()
    data, state_dir = b"", None
    if b"CNI_COMMAND" in posix.environ:
        data, state_dir = pass_through(posix.environ)
    exec(onward, {"__name__": "onward", "arguments": arguments, "data": data, "state_dir": state_dir})


if __name__ == "__main__":
    main(*sys.argv[1:])
