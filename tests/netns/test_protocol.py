"""Malformed calls of the artefact: each one ends with a CNI error, without a traceback and without a hang."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.kit.host import Host
from tests.kit.process import CLEAN
from tests.kit.runtime import ANNOTATIONS, Pod, Sandbox
from tests.kit.world import World

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {
    "ADD": "0.3.0",
    "DEL": "0.3.0",
    "CHECK": "0.4.0",
    "GC": "1.1.0",
    "STATUS": "1.1.0",
    "VERSION": "0.3.0",
}
VERBS = tuple(SINCE)
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def host(world: World) -> Iterator[Host]:
    """One host for the whole module. Asserts at the end that no call left anything on it."""
    with Host(world.wire, world.control, world.root / "protocol") as host:
        yield host
        assert [left for left in host.leftovers() if not left.startswith("interface veth")] == []


@pytest.fixture(scope="module")
def pod(host: Host) -> Sandbox:
    """A pod that asks to be a node, with the primary network."""
    return host.sandbox(Pod.enrolled("victim"))


@pytest.fixture(scope="module")
def previous(host: Host, pod: Sandbox) -> dict[str, Any]:
    """The pod's prevResult."""
    return host.runtime.add_primary(pod)


def _answer(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """The CNI error of a call. Asserts that standard output is one JSON object and that there is no traceback."""
    for stream in (done.stdout, done.stderr):
        assert b"Traceback" not in stream
        assert b'File "' not in stream
    assert done.returncode == 1, (done.stdout, done.stderr)
    answer = json.loads(done.stdout)
    assert set(answer) <= {"cniVersion", "code", "msg", "details"}
    assert isinstance(answer["code"], int)
    assert answer["code"] > 0
    assert answer["cniVersion"] in VERSIONS
    assert answer["msg"].isprintable()
    assert len(answer["msg"]) < 4096
    assert b"\x1b" not in done.stderr
    return dict(answer)


def _call(
    host: Host, verb: str, pod: Sandbox, text: bytes | Mapping[str, Any]
) -> subprocess.CompletedProcess[bytes]:
    return host.runtime.exec_plugin(host.runtime.environ(verb, pod), text)


UNDECODABLE = {
    "nothing": b"",
    "blank": b" \n",
    "not JSON": b"plugin: yes",
    "half": b'{"cniVersion": "1.1.0", "name": "pods"',
    "more": b'{"cniVersion": "1.1.0", "name": "pods"} {}',
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a byte order mark": b'\xef\xbb\xbf{"cniVersion": "1.1.0", "name": "pods"}',
    "UTF-16": '{"cniVersion": "1.1.0", "name": "pods"}'.encode("utf-16"),
    "invalid UTF-8": b'{"cniVersion": "1.1.0", "name": "\xff"}',
    "a lone surrogate": b'{"cniVersion": "1.1.0", "name": "pods", "x": "\\ud800"}',
    "a raw control character": b'{"cniVersion": "1.1.0", "name": "a\x01"}',
    "a key twice": b'{"cniVersion": "1.1.0", "name": "pods", "name": "others"}',
    "NaN": b'{"cniVersion": "1.1.0", "name": "pods", "x": NaN}',
    "Infinity": b'{"cniVersion": "1.1.0", "name": "pods", "x": -Infinity}',
    "a comma too many": b'{"cniVersion": "1.1.0", "name": "pods",}',
    "100,000 lists deep": b'{"cniVersion": "1.1.0", "name": "pods", "x": '
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}",
    "100,000 objects deep": b'{"x":' * 100_000 + b"1" + b"}" * 100_000,
    "17 MB": b'{"cniVersion": "1.1.0", "name": "pods", "x": "' + b"x" * 17 * MEGABYTE + b'"}',
    "a number of 10,000 digits": b'{"cniVersion": "1.1.0", "name": "pods", "x": ' + b"9" * 10_000 + b"}",
    "NULs": b"\0" * 1000,
}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "VERSION"])
@pytest.mark.parametrize("text", UNDECODABLE.values(), ids=UNDECODABLE.keys())
def test_what_is_not_json_is_code_6(host: Host, pod: Sandbox, verb: str, text: bytes) -> None:
    """If standard input is not one JSON object, every verb except VERSION fails with code 6."""
    assert _answer(_call(host, verb, pod, text))["code"] == 6


@pytest.mark.parametrize(
    "text", [UNDECODABLE["not JSON"], UNDECODABLE["NaN"], UNDECODABLE["100,000 lists deep"]], ids=len
)
def test_version_wants_json_too(host: Host, pod: Sandbox, text: bytes) -> None:
    """VERSION accepts empty standard input, but fails with code 6 if the input is anything else than one JSON object."""
    assert _answer(_call(host, "VERSION", pod, text))["code"] == 6


INVALID = {
    "no cniVersion": ({"cniVersion": None}, 1),
    "a cniVersion of the future": ({"cniVersion": "9.0.0"}, 1),
    "a cniVersion of the past": ({"cniVersion": "0.2.0"}, 1),
    "a numeric cniVersion": ({"cniVersion": 1.1}, 7),
    "no name": ({"name": None}, 7),
    "an empty name": ({"name": ""}, 7),
    "a name that is a number": ({"name": 7}, 7),
    "a name that climbs": ({"name": "../../etc"}, 7),
    "a name with a slash": ({"name": "a/b"}, 7),
    "a name with a newline": ({"name": "pods\nx"}, 7),
    "a name with a NUL": ({"name": "pods\0"}, 7),
    "a name of 300 characters": ({"name": "n" * 300}, 7),
    "a prevResult that is a list": ({"prevResult": []}, 7),
    "a runtimeConfig that is a string": ({"runtimeConfig": "x"}, 7),
    "annotations that are a list": ({"runtimeConfig": {ANNOTATIONS: ["x"]}}, 7),
    "an annotation that is a number": ({"runtimeConfig": {ANNOTATIONS: {"tailscale.com/enabled": 1}}}, 7),
    "an unknown key of ours": ({"stateDirr": "/x"}, 7),
    "a relative stateDir": ({"stateDir": "state"}, 7),
    "a stateDir that climbs": ({"stateDir": "/var/../etc"}, 7),
    "a controlURL that is none": ({"controlURL": "ftp://x"}, 7),
    "a readyTimeout without a unit": ({"readyTimeout": "soon"}, 7),
    "a negative readyTimeout": ({"readyTimeout": -1}, 7),
    "ports that are no range": ({"ports": "80"}, 7),
    "a uidBase of root": ({"uidBase": 0}, 7),
    "a tag without its prefix": ({"tags": ["web"]}, 7),
}


@pytest.mark.parametrize(("change", "code"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_configuration_is_named(
    host: Host, pod: Sandbox, previous: dict[str, Any], change: dict[str, Any], code: int
) -> None:
    """A missing or invalid key in the configuration fails ADD with the specification's code, and the error names the key."""
    entry = host.runtime.entry(pod, prevResult=previous) | change
    answer = _answer(
        _call(host, "ADD", pod, {key: value for key, value in entry.items() if value is not None})
    )
    assert answer["code"] == code
    (key,) = change
    assert key in answer["msg"] + answer.get("details", "")


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
def test_add_and_check_want_a_prev_result(host: Host, pod: Sandbox, verb: str) -> None:
    """ADD and CHECK without prevResult fail with code 7, because the plugin must follow another one."""
    assert _answer(_call(host, verb, pod, host.runtime.entry(pod)))["code"] == 7


BAD_ENVIRONMENT = {
    "no container ID": ({"CNI_CONTAINERID": ""}, 4),
    "a container ID that climbs": ({"CNI_CONTAINERID": "../../../etc/passwd"}, 4),
    "a container ID with a newline": ({"CNI_CONTAINERID": "a\nb"}, 4),
    "a container ID that starts with a dash": ({"CNI_CONTAINERID": "-rf"}, 4),
    "a container ID of 300 characters": ({"CNI_CONTAINERID": "a" * 300}, 4),
    "no interface name": ({"CNI_IFNAME": ""}, 4),
    "an interface name that climbs": ({"CNI_IFNAME": ".."}, 4),
    "an interface name with a slash": ({"CNI_IFNAME": "a/b"}, 4),
    "an interface name with a colon": ({"CNI_IFNAME": "eth0:1"}, 4),
    "an interface name with a blank": ({"CNI_IFNAME": "eth 0"}, 4),
    "an interface name of 16 characters": ({"CNI_IFNAME": "e" * 16}, 4),
    "arguments without a value": ({"CNI_ARGS": "K8S_POD_NAME"}, 4),
    "an unknown verb": ({"CNI_COMMAND": "DESTROY"}, 4),
    "a verb in small letters": ({"CNI_COMMAND": "add"}, 4),
    "an empty verb": ({"CNI_COMMAND": ""}, 4),
    "no namespace": ({"CNI_NETNS": ""}, 4),
    "a namespace that is not there": ({"CNI_NETNS": "/run/netns/is-not-there"}, 8),
    "a namespace that is a file": ({"CNI_NETNS": "/etc/passwd"}, 8),
    "a namespace that is a directory": ({"CNI_NETNS": "/"}, 8),
    "a namespace of another kind": ({"CNI_NETNS": "/proc/self/ns/mnt"}, 8),
    "the plugin's own namespace": ({"CNI_NETNS": "/proc/self/ns/net"}, 8),
}


@pytest.mark.parametrize(("change", "code"), BAD_ENVIRONMENT.values(), ids=BAD_ENVIRONMENT.keys())
def test_an_invalid_environment_is_named(
    host: Host, pod: Sandbox, previous: dict[str, Any], change: dict[str, str], code: int
) -> None:
    """A missing or invalid CNI variable fails ADD with the specification's code, and the error names the variable."""
    environ = host.runtime.environ("ADD", pod) | change
    answer = _answer(host.runtime.exec_plugin(environ, host.runtime.entry(pod, prevResult=previous)))
    assert answer["code"] == code
    if code == 4:
        assert set(change) <= set(answer["msg"].replace(",", " ").split())


def test_all_bad_variables_are_named_at_once(host: Host, pod: Sandbox, previous: dict[str, Any]) -> None:
    """One error names all invalid variables."""
    bad = {"CNI_CONTAINERID": "../x", "CNI_IFNAME": "a/b", "CNI_ARGS": "x"}
    environ = host.runtime.environ("ADD", pod) | bad
    answer = _answer(host.runtime.exec_plugin(environ, host.runtime.entry(pod, prevResult=previous)))
    assert answer["code"] == 4
    assert all(name in answer["msg"] for name in bad)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_in_every_version(host: Host, verb: str, version: str) -> None:
    """Each verb answers in the caller's version, or fails with code 1 and names the version that introduced the verb."""
    plain = host.sandbox(Pod("plain"))
    previous = {"cniVersion": version, "ips": [{"address": "10.88.0.9/24"}], "dns": {}}
    if version in ("0.3.0", "0.3.1", "0.4.0"):
        previous["ips"] = [{"version": "4", "address": "10.88.0.9/24"}]
    entry = host.runtime.entry(plain, prevResult=previous) | {"cniVersion": version}
    done = _call(host, verb, plain, entry)
    if version < SINCE[verb]:
        answer = _answer(done)
        assert answer["code"] == 1
        assert answer["cniVersion"] == version
        assert SINCE[verb] in answer["msg"]
        return
    assert done.returncode == 0, done.stdout + done.stderr
    if verb == "ADD":
        assert json.loads(done.stdout) == previous
    elif verb == "VERSION":
        assert json.loads(done.stdout) == {"cniVersion": version, "supportedVersions": list(VERSIONS)}
    else:
        assert done.stdout == b""


def test_what_it_is_without_a_verb(host: Host) -> None:
    """Without CNI_COMMAND and arguments the plugin prints what it is, and succeeds."""
    done = host.runtime.exec_plugin({}, b"")
    assert done.returncode == 0
    assert b"tailscale-cni" in done.stdout
    assert b"Traceback" not in done.stderr


HOSTILE = {
    "PYTHONPATH": "/dev/fd",
    "PYTHONHOME": "/nowhere",
    "PYTHONSTARTUP": "/etc/passwd",
    "PYTHONINSPECT": "1",
    "PYTHONVERBOSE": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONDEVMODE": "1",
    "PYTHONIOENCODING": "utf-16",
    "SHIV_ROOT": "/proc/1",
    "SHIV_INTERPRETER": "1",
    "SHIV_ENTRY_POINT": "os:abort",
    "SHIV_FORCE_EXTRACT": "1",
    "SHIV_CONSOLE_SCRIPT": "x",
    "LC_ALL": "xx_XX.nonsense",
    "HOME": "/proc/self/nowhere",
    "TMPDIR": "/nowhere",
}


@pytest.mark.parametrize("pod", [Pod.enrolled("hostile"), Pod("plain")], ids=["enrolled", "plain"])
@pytest.mark.parametrize(
    "environ", [HOSTILE, {"PATH": ""}, {"PATH": "/nowhere"}], ids=["python", "no path", "wrong path"]
)
def test_a_hostile_environment_changes_nothing(host: Host, environ: dict[str, str], pod: Pod) -> None:
    """Variables for Python, shiv, locale, PATH and home in the runtime's environment do not change the answer."""
    sandbox = host.sandbox(pod)
    previous = host.runtime.add_primary(sandbox)
    entry = host.runtime.entry(sandbox, prevResult=previous)
    done = host.runtime.exec_plugin({**environ, **host.runtime.environ("ADD", sandbox)}, entry)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == previous
    host.runtime.chained("DEL", sandbox, prevResult=previous)


CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}


@pytest.mark.parametrize("stream", CLOSED)
@pytest.mark.parametrize("verb", VERBS)
def test_closed_standard_streams(host: Host, pod: Sandbox, verb: str, stream: str) -> None:
    """A call fails if a stream that it needs is closed, and otherwise answers as usual. It never has a traceback, hang or crash."""
    environ = {**CLEAN, **host.runtime.environ(verb, pod)}
    text = json.dumps(host.runtime.entry(pod)).encode()
    usual = host.runtime.exec_plugin(environ, text)
    done = host.netns.attempt(
        "sh", "-c", f'exec "$0" {CLOSED[stream]}', host.runtime.plugin, stdin=text, env=environ
    )
    assert b"Traceback" not in done.stdout + done.stderr
    match stream:
        case "stdin":
            assert done.returncode == 0 if verb == "VERSION" else _answer(done)["code"] == 6
        case "stdout":
            assert done.returncode == (1 if usual.stdout else 0)
        case "stderr":
            assert (done.returncode, done.stdout) == (usual.returncode, usual.stdout)
        case "all":
            assert done.returncode == 1


def _in_a_deleted_directory(plugin: str) -> str:
    return f'd=$(mktemp -d) && cd "$d" && rmdir "$d" && exec {plugin}'


def _with_standard_output_full(plugin: str) -> str:
    return f"exec {plugin} >/dev/full"


def _with_few_descriptors(plugin: str) -> str:
    return f"ulimit -n 16; exec {plugin}"


@pytest.mark.parametrize(
    "around",
    [_in_a_deleted_directory, _with_standard_output_full, _with_few_descriptors],
    ids=lambda f: f.__name__.strip("_"),
)
@pytest.mark.parametrize("verb", ["ADD", "DEL", "VERSION"])
def test_odd_surroundings(host: Host, verb: str, around: Callable[[str], str]) -> None:
    """A deleted working directory and few descriptors change no answer. If an answer cannot be written, the exit status is 1."""
    plain = host.sandbox(Pod("plain"))
    previous = {"cniVersion": "1.1.0", "ips": [{"address": "10.88.0.9/24"}]}
    environ = {**CLEAN, **host.runtime.environ(verb, plain)}
    text = json.dumps(host.runtime.entry(plain, prevResult=previous)).encode()
    usual = host.runtime.exec_plugin(environ, text)
    assert usual.returncode == 0
    done = host.netns.attempt("sh", "-c", around('"$0"'), host.runtime.plugin, stdin=text, env=environ)
    assert b"Traceback" not in done.stdout + done.stderr
    if around is _with_standard_output_full:
        assert done.returncode == (1 if usual.stdout else 0)
    else:
        assert (done.returncode, done.stdout) == (0, usual.stdout)
