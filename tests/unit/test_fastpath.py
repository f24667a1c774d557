"""The fast path answers as the real path would, and passes on every call that it does not answer."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from builds import zipapp
from front import fastpath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailscale_cni import config, errors, verbs
from tailscale_cni.build.interpreter import fit_to_python
from tailscale_cni.cni import dispatch, document
from tailscale_cni.state.namespaces import FRESH, Namespaces

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
CONTAINER = "0123456789abcdef" * 4
ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": CONTAINER,
    "CNI_NETNS": "/run/netns/cni-0d2f5a5e",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0.x;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=1-2",
}
PREV_RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "veth1", "mac": "02:00:00:00:00:01"},
        {"name": "eth0", "sandbox": "/run/netns/cni-0d2f5a5e"},
    ],
    "ips": [{"interface": 1, "address": "10.42.0.7/24", "gateway": "10.42.0.1"}],
    "routes": [{"dst": "0.0.0.0/0", "priority": 0, "mtu": 1400}],
    "dns": {},
    "unknown": {'é\u2028\\"/': [True, False, None, -1, 2**70, {}, []]},
}


class Host:
    """A host's files, and calls with its conflist entry."""

    def __init__(self, root: Path) -> None:
        self.state_dir, self.config_file = root / "state", root / "config.yaml"
        self.entry: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": "cbr0",
            "type": "tailscale-cni",
            "capabilities": {ANNOTATIONS: True},
            "stateDir": str(self.state_dir),
            "runDir": str(root / "run"),
            "configFile": str(self.config_file),
            "runtimeConfig": {ANNOTATIONS: {"kubernetes.io/config.source": "api"}},
            "prevResult": PREV_RESULT,
        }

    def configure(self, text: str) -> None:
        """Write config.yaml, and the record that the real path writes for the fast path."""
        self.config_file.write_text(text, encoding="utf-8")
        self.state_dir.mkdir(0o711, exist_ok=True)
        view = config.fastpath_note(config.load_config(self.entry))
        (self.state_dir / "enroll.json").write_text(json.dumps(view), encoding="utf-8")

    def has_asked(self, namespace: str, annotations: Mapping[str, str], *, age: int = 0) -> None:
        """Configure a kubeconfig, and record what the API said of a namespace ``age`` seconds ago."""
        self.configure("kubeconfig: /nonexistent\n")
        Namespaces(str(self.state_dir)).renew(namespace, lambda: annotations, wait=True)
        file = self.state_dir / "namespaces" / f"{namespace}.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        now = int(time.monotonic()) - age
        file.write_text(json.dumps(document | {"asked": now, "until": now + FRESH}), encoding="utf-8")

    def fast_path(self, environ: Mapping[str, str] = MappingProxyType({}), **keys: Any) -> bytes | None:
        """Returns the answer of the fast path, or None if it passes the call on."""
        environ, entry = {**ENVIRON, **environ}, self.entry | keys
        try:
            parsed = fastpath.parse(json.dumps(entry).encode())
            raw = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
            return fastpath.answer(raw, parsed, str(self.state_dir))
        except Exception:  # noqa: BLE001 - on any exception the fast path passes the call on
            return None

    def in_the_archive(self, environ: dict[str, str], entry: dict[str, Any]) -> tuple[int, bytes]:
        """Returns exit status and standard output of the real path."""
        out = io.BytesIO()
        stdin = io.BytesIO(json.dumps(entry).encode())
        return dispatch.main(environ, stdin, out, io.StringIO(), verbs.load), out.getvalue()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without configuration: it enrols annotated pods."""
    return Host(tmp_path)


@pytest.fixture(scope="module")
def artefact() -> Path:
    """The path of the built artefact."""
    return zipapp()


@pytest.fixture(scope="module", params=["built", "fitted"])
def launcher(
    artefact: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """The artefact without its archive, as built and as ``install`` fits it. Only the fast path can answer."""
    python = os.path.realpath(sys.executable) if request.param == "fitted" else None
    data = fit_to_python(artefact, python)
    assert data.startswith(b"#!/bin/sh\n") == (python is None)
    path = tmp_path_factory.mktemp("launcher") / "tailscale-cni"
    path.write_bytes(data[: data.index(b"PK\x03\x04")])
    path.chmod(0o755)
    return path


def call(
    file: Path, environ: dict[str, str], stdin: bytes, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Make a runtime's call with this environment and no other variables."""
    return subprocess.run(
        [file], input=stdin, env=environ, capture_output=True, timeout=120, check=False, **options
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(
    value=st.dictionaries(st.text(), JSON),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    noise=st.binary(max_size=3),
    at=st.integers(0, 200),
)
def test_reads_what_the_archive_reads(
    *, value: dict[str, Any], indent: int | None, ascii_only: bool, noise: bytes, at: int
) -> None:
    """A document that the fast path accepts is accepted by the real path, with the same value."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    for data in (text, text[:at] + noise + text[at:], text[:at] + text[at + 1 :]):
        try:
            read = fastpath.parse(data)
        except Exception:  # noqa: BLE001, S112 - on any exception the fast path passes the call on
            continue
        assert read == document.decode(data)


PLAIN = st.text(st.characters(exclude_characters="\\", max_codepoint=0xCFFF))
"""Text without surrogates and without escapes that look like them."""


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(PLAIN, st.integers() | PLAIN))
def test_reads_every_plain_document(value: dict[str, Any]) -> None:
    """The fast path reads every document of whole numbers and text."""
    assert fastpath.parse(json.dumps(value).encode()) == value
    assert fastpath.parse(json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\r\n") == value


POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={}"
ODD_VARIABLES = [
    *[
        "",
        "x",
        "a/b",
        "..",
        "/",
        "/../x",
        "/run/a/../b",
        "é",
        "a b",
        "\n",
        "\x7f",
        "A" * 300,
        "eth0:1",
        "0123",
    ],
    *[
        "a=b",
        "a=b;a=c",
        "K8S_POD_NAME=x",
        "IgnoreUnknown=1",
        "IgnoreUnknown=2;A=b",
        "DEL",
        "CHECK",
        "ADD",
        "GC",
    ],
    *[
        POD.format(*pair)
        for pair in [("A", "a"), ("a.b", "a"), ("a", "a..b"), ("a", "-a"), ("a" * 64, "a"), ("a", "a" * 254)]
    ],
    *[POD.format("a", f"a;K8S_POD_UID={uid}") for uid in ("x", "", "-", "é", "A" * 201)],
]
ODD_VALUES: list[Any] = [
    *[
        None,
        "",
        0,
        1,
        False,
        True,
        [],
        {},
        [{}],
        "1.0.0",
        "0.3.0",
        "0.4.0",
        "9.9.9",
        "a/b",
        "../x",
        "x" * 250,
        "é",
    ],
    *["/nonexistent/file", "relative", "/a/../b", {"cniVersion": "0.3.0"}, {"cniVersion": "1.0.0", "ips": 3}],
    *[{ANNOTATIONS: annotations} for annotations in (None, 0, {"a": 1}, {"a": None})],
    *[{ANNOTATIONS: {"tailscale.com/enabled": value}} for value in ("false", "true", "maybe")],
]
KEYS = "cniVersion name type runtimeConfig prevResult runDir configFile tags enroll cni.dev/valid-attachments dns args"
MUTATED_ENVIRON = st.dictionaries(
    st.sampled_from(sorted(ENVIRON)), st.sampled_from(ODD_VARIABLES), max_size=2
)
MUTATED_ENTRY = st.dictionaries(st.sampled_from(KEYS.split()), st.sampled_from(ODD_VALUES), max_size=2)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["ADD", "DEL", "CHECK"]),
    st.sampled_from(VERSIONS),
    MUTATED_ENVIRON,
    MUTATED_ENTRY,
    st.sampled_from(["nothing", "no wish", "a wish"]),
)
def test_never_answers_otherwise_than_the_archive(
    tmp_path: Path, verb: str, version: str, environ: dict[str, str], keys: dict[str, Any], asked: str
) -> None:
    """If the fast path answers a call, the real path succeeds with the same answer, byte for byte."""
    host = Host(tmp_path)
    if asked != "nothing":
        host.has_asked("default", {"tailscale.com/enabled": str(asked == "a wish").lower()})
    keys = {"cniVersion": version, "prevResult": PREV_RESULT | {"cniVersion": version}} | keys
    environ = {"CNI_COMMAND": verb} | environ
    answer = host.fast_path(environ, **keys)
    if answer is not None:
        assert host.in_the_archive(ENVIRON | environ, host.entry | keys) == (0, answer)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "annotations", [None, {}, {"a": "b"}, {"tailscale.com/enabled": "false", "tailscale.com/hostname": "///"}]
)
def test_answers_for_a_pod_that_does_not_ask(
    host: Host, version: str, annotations: dict[str, str] | None
) -> None:
    """Without enrolment, ADD passes prevResult on, and DEL and CHECK (from 0.4.0 on) print nothing, in every version and any runtime."""
    keys: dict[str, Any] = {
        "cniVersion": version,
        "prevResult": PREV_RESULT | {"cniVersion": version},
        "runtimeConfig": {ANNOTATIONS: annotations},
    }
    answer = host.fast_path(**keys)
    assert answer is not None
    assert json.loads(answer) == keys["prevResult"]
    assert list(json.loads(answer)) == list(PREV_RESULT)
    assert host.fast_path({"CNI_COMMAND": "DEL"}, **keys) == b""
    assert (
        host.fast_path(
            {"CNI_COMMAND": "DEL", "CNI_NETNS": "", "CNI_ARGS": "", "CNI_PATH": ""},
            **keys | {"prevResult": None},
        )
        == b""
    )
    assert host.fast_path({"CNI_COMMAND": "CHECK"}, **keys) == (None if version < "0.4.0" else b"")


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
@pytest.mark.parametrize("value", ["true", "True", "", "yes", "1"])
def test_goes_on_for_a_pod_that_asks(host: Host, verb: str, value: str) -> None:
    """If tailscale.com/enabled has another value than "false", the fast path does not answer."""
    asks = {ANNOTATIONS: {"tailscale.com/enabled": value}}
    assert host.fast_path({"CNI_COMMAND": verb}, runtimeConfig=asks) is None


@pytest.mark.parametrize("verb", ["DEL", "CHECK"])
def test_goes_on_where_something_was_recorded(host: Host, verb: str) -> None:
    """If ADD has recorded an attachment for a container, the fast path does not answer, whatever its annotations are now."""
    (host.state_dir / "attachments" / CONTAINER).mkdir(parents=True)
    assert host.fast_path({"CNI_COMMAND": verb}) is None


def test_knows_the_host_by_what_was_noted(host: Host) -> None:
    """The fast path trusts enroll.json while every watched file is the file that was read."""
    assert host.fast_path() is not None
    host.config_file.write_text("tags: [tag:a]\n", encoding="utf-8")
    assert host.fast_path() is None
    assert host.fast_path({"CNI_COMMAND": "DEL"}) is None
    host.configure("tags: [tag:a]\n")
    assert host.fast_path() is not None
    host.config_file.write_text("tags: [tag:bc]\n", encoding="utf-8")
    assert host.fast_path() is None
    host.configure("enroll: all\n")
    assert host.fast_path() is None
    assert host.fast_path({"CNI_COMMAND": "CHECK"}) is None
    assert host.fast_path({"CNI_COMMAND": "DEL"}) == b""
    host.config_file.unlink()
    assert host.fast_path() is None


@pytest.mark.parametrize(
    ("layer", "passes"),
    [("{}", True), ("{tailscale.com/tags: 'tag:a'}", True), ("{tailscale.com/enabled: 'false'}", True)]
    + [(f"{{tailscale.com/enabled: {word}}}", False) for word in ("true", "'true'", "'odd'")],
)
def test_goes_on_where_a_namespace_may_speak_for_its_pods(host: Host, layer: str, *, passes: bool) -> None:
    """If a namespace in the configuration can enrol pods, the fast path answers only DEL, which depends only on records."""
    host.configure(f"enroll: annotated\nnamespaces: {{quiet: {{}}, media: {layer}}}\n")
    assert (host.fast_path() is not None) == passes
    assert (host.fast_path({"CNI_COMMAND": "CHECK"}) is not None) == passes
    assert host.fast_path({"CNI_COMMAND": "DEL"}) == b""


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
@pytest.mark.parametrize(
    ("annotations", "passes"),
    [({}, True), ({"tailscale.com/tags": "tag:a"}, True), ({"tailscale.com/enabled": "false"}, True)]
    + [({"tailscale.com/enabled": word}, False) for word in ("true", "odd", "")],
)
def test_knows_a_namespace_by_what_the_api_said(
    host: Host, verb: str, annotations: dict[str, str], *, passes: bool
) -> None:
    """If the API's recent answer for a namespace enrols no pod, the fast path answers. DEL depends only on records."""
    host.has_asked("default", annotations)
    assert (host.fast_path({"CNI_COMMAND": verb}) is not None) == passes
    assert host.fast_path({"CNI_COMMAND": "DEL"}) == b""


@pytest.mark.parametrize("age", [-5, FRESH + 1, 10**6])
def test_goes_on_where_a_namespace_may_have_changed_its_mind(host: Host, age: int) -> None:
    """The fast path does not use the API's answer if it is old or from before a reboot."""
    host.has_asked("default", {}, age=age)
    assert host.fast_path() is None


def test_goes_on_for_a_namespace_that_nobody_has_seen(host: Host) -> None:
    """The fast path does not answer for a namespace without a readable, successful answer of the API."""
    host.has_asked("other", {})
    assert host.fast_path() is None
    host.has_asked("default", {})
    assert host.fast_path() is not None
    for text in ("", "{", "{}", "[]"):
        (host.state_dir / "namespaces" / "default.json").write_text(text, encoding="utf-8")
        assert host.fast_path() is None
    Namespaces(str(host.state_dir)).renew("default", _fail, wait=True)
    assert host.fast_path() is None


def _fail() -> dict[str, str]:
    raise errors.KubernetesFailed(reason="it is down")


def test_excluded_namespaces_need_no_api(host: Host) -> None:
    """Pods in excluded namespaces pass without an answer of the API, because the API server may need them."""
    host.configure("kubeconfig: /nonexistent\n")
    args = ENVIRON["CNI_ARGS"].replace("=default", "=kube-system")
    assert host.fast_path({"CNI_ARGS": args}) is not None
    assert host.fast_path() is None
    host.configure("kubeconfig: /nonexistent\nexcludeNamespaces: [default]\n")
    assert host.fast_path({"CNI_ARGS": args}) is None
    assert host.fast_path() is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": 2, "enroll": "annotated", "watch": {}}',
        '{"version": 1, "enroll": "annotated", "watch": {}}',
    ],
)
def test_does_not_trust_a_note_that_is_odd(host: Host, text: str) -> None:
    """If enroll.json is broken, of another version or for another configuration file, the fast path does not answer."""
    host.state_dir.mkdir()
    (host.state_dir / "enroll.json").write_text(text, encoding="utf-8")
    assert host.fast_path() is None


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_does_not_wait_for_a_note_that_is_no_file(host: Host, make: Callable[[Path], None]) -> None:
    """If a record is a FIFO or a directory, the fast path neither waits nor answers."""
    host.has_asked("default", {})
    assert host.fast_path() is not None
    for note in (host.state_dir / "namespaces" / "default.json", host.state_dir / "enroll.json"):
        note.unlink()
        make(note)
        assert host.fast_path() is None


@pytest.mark.parametrize("key", ["enroll", "tags", "controlURL", "unknown"])
def test_settings_in_the_entry_go_on(host: Host, key: str) -> None:
    """If the conflist entry has settings, the fast path does not answer, because they must be validated as a whole."""
    keys: dict[str, Any] = {key: "annotated"}
    assert host.fast_path(**keys) is None


def test_needs_no_archive(host: Host, launcher: Path) -> None:
    """The launcher answers for pods that are not enrolled without the archive, and writes no file."""
    entry = json.dumps(host.entry).encode()
    done = call(launcher, ENVIRON, entry)
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, PREV_RESULT, b"")
    for verb in ("DEL", "CHECK"):
        done = call(launcher, ENVIRON | {"CNI_COMMAND": verb}, entry)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(host.state_dir.parent.iterdir()) == []


def test_needs_no_writable_disk(host: Host, launcher: Path) -> None:
    """Pods that are not enrolled start even if no file system is writable."""
    readonly = (
        'mount --make-rprivate / && mount -o remount,bind,ro / && ! touch /tmp/x 2>/dev/null && exec "$0"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", readonly, launcher],
        input=json.dumps(host.entry).encode(),
        env=ENVIRON | {"PATH": os.defpath + ":/usr/sbin:/sbin"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout or b"null")) == (0, PREV_RESULT), done.stderr


def test_hostile_environment_changes_nothing(host: Host, launcher: Path, tmp_path: Path) -> None:
    """No environment variable affects the interpreter, and none is required."""
    for name in ("posix", "sys", "_json", "sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(99)\n", encoding="utf-8")
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 98\n", encoding="utf-8")
    (tmp_path / "python3").chmod(0o755)
    hostile = {
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": "/nonexistent",
        "PYTHONSTARTUP": str(tmp_path / "posix.py"),
        "PYTHONOPTIMIZE": "2",
        "PYTHONINSPECT": "1",
        "PATH": str(tmp_path),
        "IFS": "/",
        "ENV": str(tmp_path / "python3"),
        "BASH_ENV": str(tmp_path / "python3"),
        "python": str(tmp_path / "python3"),
        "SHIV_ROOT": str(tmp_path),
    }
    done = call(launcher, ENVIRON | hostile, json.dumps(host.entry).encode(), cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, PREV_RESULT, b"")


def valid(host: Host, **keys: Any) -> bytes:
    """Returns the host's entry with other keys, as bytes."""
    return json.dumps(host.entry | keys).encode()


ODD_DOCUMENTS: dict[str, tuple[Callable[[Host], bytes], int]] = {
    "nothing": (lambda host: b"", 6),
    "no JSON": (lambda host: b"hello", 6),
    "half": (lambda host: valid(host)[:-1], 6),
    "more": (lambda host: valid(host) + b"{}", 6),
    "a list": (lambda host: b"[" + valid(host) + b"]", 6),
    "byte order mark": (lambda host: b"\xef\xbb\xbf" + valid(host), 6),
    "not UTF-8": (lambda host: valid(host).replace(b"cbr0", b"cbr\xff"), 6),
    "a key twice": (lambda host: valid(host)[:-1] + b', "name": "b"}', 6),
    "NaN": (lambda host: valid(host, x=float("nan")), 6),
    "NUL": (lambda host: valid(host).replace(b"cbr0", b"cbr\0"), 6),
    "deep": (lambda host: valid(host)[:-1] + b', "x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 6),
    "20 MB": (lambda host: valid(host) + b" " * 20_000_000, 6),
    "no version": (lambda host: valid(host, cniVersion=None), 1),
    "version": (lambda host: valid(host, cniVersion="2.0.0"), 1),
    "no name": (lambda host: valid(host, name=None), 7),
    "name": (lambda host: valid(host, name="../x"), 7),
    "no prevResult": (lambda host: valid(host, prevResult=None), 7),
    "annotation": (
        lambda host: valid(host, runtimeConfig={ANNOTATIONS: {"tailscale.com/enabled": "maybe"}}),
        101,
    ),
}


@pytest.mark.parametrize("name", ODD_DOCUMENTS)
def test_what_is_odd_gets_a_proper_error(host: Host, artefact: Path, name: str) -> None:
    """The real path gets the bytes that the fast path has read, and answers an invalid call with a CNI error."""
    document, code = ODD_DOCUMENTS[name]
    done = call(artefact, ENVIRON, document(host))
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == code
    assert b"Traceback" not in done.stderr


def test_a_big_document_is_no_error(host: Host, artefact: Path) -> None:
    """The real path reads a document to its end if it is longer than the fast path's limit."""
    entry = valid(host, args={"padding": "x" * 3_000_000})
    done = call(artefact, ENVIRON, entry)
    assert (done.returncode, json.loads(done.stdout)) == (0, PREV_RESULT), done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_descriptors(host: Host, artefact: Path, closed: str) -> None:
    """With standard descriptors closed, a call exits in time and without a traceback."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" {closed}', artefact],
        input=valid(host, runtimeConfig={ANNOTATIONS: {"tailscale.com/enabled": "maybe"}}),
        env=ENVIRON,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr + done.stdout
