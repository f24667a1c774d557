"""Requests: how a call is parsed. Every invalid call is an error that says what is wrong."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailscale_cni import errors
from tailscale_cni.cni import document
from tailscale_cni.cni.request import ANNOTATIONS, AttachmentKey, Pod, Request, parse

from .cni_call import ENVIRON, PREV_RESULT, SINCE, call, config, environ, run_module

REQUIRED = {
    "ADD": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
    "DEL": {"CNI_CONTAINERID", "CNI_IFNAME"},
    "CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
    "GC": {"CNI_PATH"},
    "STATUS": set[str](),
}

BAD_NAMES = [
    "..",
    "../../etc",
    "a/b",
    "/abs",
    ".hidden",
    "-x",
    "_x",
    "a b",
    "a\nb",
    "a\0b",
    "a\n",
    "é",
    "\udcff",
    "a" * 201,
    "a;b",
]

UNDECODABLE = {
    "empty": (b"", "empty"),
    "blank": (b" \r\n\t", "empty"),
    "not JSON": (b"hello", "line 1, column 1"),
    "YAML": (b"name: cbr0", "line 1, column 1"),
    "cut short": (b'{"name": "cbr0"', "line 1"),
    "two documents": (b'{"a": 1}\n{"a": 1}', "line 2, column 1"),
    "trailing comma": (b'{"a": 1,}', "line 1"),
    "comment": (b'{"a": 1} // so', "column 10"),
    "a string": (b'"ADD"', "a string"),
    "a list": (b"[]", "a list"),
    "null": (b"null", "null"),
    "a number": (b"7", "a number"),
    "true": (b"true", "true"),
    "byte order mark": (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "byte 0 is not UTF-8"),
    "UTF-32": ('{"a": 1}'.encode("utf-32-be"), "line 1, column 1"),
    "invalid UTF-8": (b'{"a": "\xff"}', "byte 7"),
    "overlong UTF-8": (b'{"a": "\xc0\xaf"}', "byte 7"),
    "raw surrogate": (b'{"a": "\xed\xa0\x80"}', "byte 7"),
    "high surrogate": (b'{\n"a": "\\ud83d"}', "line 2"),
    "low surrogate": (b'{"a": "\\ude00\\ud83d"}', "surrogate"),
    "surrogate in capitals": (b'{"\\uD83D": 1}', "surrogate"),
    "surrogate behind an escape": (b'{"a": "\\\\\\ud83d"}', "surrogate"),
    "duplicate key": (b'{"name": "a", "name": "b"}', "'name'"),
    "duplicate key, deep": (b'{"a": [{"b": 1, "\\u0062": 2}]}', "'b'"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "Infinity": (b'{"a": Infinity}', "Infinity"),
    "-Infinity": (b'{"a": -Infinity}', "-Infinity"),
    "a number beyond doubles": (b'{"a": -1e400}', "-1e400"),
    "5000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    "leading zero": (b'{"a": 01}', "line 1"),
    "hexadecimal": (b'{"a": 0x1}', "line 1"),
    "single quotes": (b"{'a': 1}", "line 1"),
    "newline in a string": (b'{"a": "\n"}', "control character"),
    "NUL": (b'{"a": "\0"}', "control character"),
    "bad escape": (b'{"a": "\\x41"}', "line 1"),
    "100,000 lists": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
    "100,000 objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deep"),
    "100,000 open lists": (b"[" * 100_000, "deep"),
    "17 MiB": (b'{"a": "' + b"a" * (17 << 20) + b'"}', "16 MiB"),
    "10 MB of nothing": (b"\0" * 10_000_000, "line 1, column 1"),
}

WRONG_TYPES: list[tuple[str, Any]] = [
    *((key, value) for key in ("name", "prevResult", "runtimeConfig") for value in (7, 1.5, True, [1], "")),
    ("name", None),
    ("name", {}),
    ("prevResult", "{}"),
    ("cni.dev/valid-attachments", {}),
    ("cni.dev/valid-attachments", "all"),
    ("cni.dev/valid-attachments", [None]),
    ("cni.dev/valid-attachments", ["8f2c41"]),
    ("cni.dev/valid-attachments", [{}]),
    ("cni.dev/valid-attachments", [{"containerID": "8f2c41"}]),
    ("cni.dev/valid-attachments", [{"containerID": "8f2c41", "ifname": 0}]),
    ("cni.dev/valid-attachments", [{"containerID": "", "ifname": "eth0"}]),
    ("cni.dev/attachments", 0),
]

HOSTILE_TEXT = st.one_of(
    st.text(), st.sampled_from([*BAD_NAMES, *ENVIRON.values(), *SINCE, "a=b;a=b", "IgnoreUnknown=x"])
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def ask(entry: dict[str, Any] | None = None, **variables: str | None) -> Request:
    """Returns the request of a valid call."""
    return parse(environ(**variables), json.dumps(entry or config()).encode())


# --- the environment


@pytest.mark.parametrize("command", list(SINCE))
def test_all_missing_variables_are_named_at_once(command: str) -> None:
    """Error 4 names every variable that the verb requires and lacks, and no other."""
    answer = call(config(), {"CNI_COMMAND": command})
    if REQUIRED[command]:
        assert answer.error["code"] == 4
        assert {name for name in ENVIRON if name in answer.error["msg"]} == REQUIRED[command]
    else:
        assert answer.status == 0


@pytest.mark.parametrize(
    ("command", "name"), [(c, n) for c in SINCE for n in sorted(ENVIRON) if n != "CNI_COMMAND"]
)
@pytest.mark.parametrize("value", [None, ""])
def test_one_missing_variable_is_named(command: str, name: str, value: str | None) -> None:
    """A required variable that is unset or empty is error 4. Other variables may be unset."""
    answer = call(config(), environ(COMMAND=command, **{name.removeprefix("CNI_"): value}))
    if name in REQUIRED[command]:
        assert answer.error["code"] == 4
        assert name in answer.error["msg"]
    else:
        assert answer.status == 0


@pytest.mark.parametrize(
    "command", ["", "add", "ADD ", "UPDATE", "ADD\nDEL", "\udcff", "../ADD", "A" * 100_000, None]
)
def test_an_unknown_command_is_error_4(command: str | None) -> None:
    """An unknown CNI_COMMAND is error 4, which names the variable and shows the start of its value."""
    error = call(config(), environ(COMMAND=command)).error
    assert error["code"] == 4
    assert "CNI_COMMAND" in error["msg"]
    assert len(error["details"]) < 500


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize("value", BAD_NAMES)
def test_a_container_id_is_never_a_path(command: str, value: str) -> None:
    """Path traversal, control characters and letters outside ASCII in a container ID are error 4."""
    error = call(config(), environ(COMMAND=command, CONTAINERID=value)).error
    assert error["code"] == 4
    assert "CNI_CONTAINERID" in error["msg"]


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize(
    "value",
    [
        ".",
        "..",
        "a/b",
        "../x",
        "a:b",
        "a b",
        "a\tb",
        "a\nb",
        "a\0b",
        "a\x1b[31m",
        "\udcff",
        "\u202e",
        "e" * 16,
        "é" * 8,
    ],
)
def test_an_interface_name_is_one_that_the_kernel_takes(command: str, value: str) -> None:
    """An interface name that the kernel rejects is error 4."""
    error = call(config(), environ(COMMAND=command, IFNAME=value)).error
    assert error["code"] == 4
    assert "CNI_IFNAME" in error["msg"]


@pytest.mark.parametrize("value", ["eth0", "e" * 15, "net1.100", "a-b_c@d", "é" * 7, "..."])
def test_unusual_interface_names_are_good(value: str) -> None:
    """Interface names may have all characters that the kernel allows."""
    assert ask(IFNAME=value).ifname == value


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize(
    "value", ["netns", "./x", "/run/../etc", "/a\nb", "/a\0b", "/\udcff", "/" + "a" * 5000, " /run"]
)
def test_a_netns_is_an_absolute_path(command: str, value: str) -> None:
    """A CNI_NETNS that is not an absolute path is error 4, even for verbs that do not need it."""
    error = call(config(), environ(COMMAND=command, NETNS=value)).error
    assert error["code"] == 4
    assert "CNI_NETNS" in error["msg"]


@pytest.mark.parametrize(
    "value",
    [
        ";",
        "a",
        "=b",
        "IgnoreUnknown",
        "IgnoreUnknown=1;",
        "IgnoreUnknown=1;a=b=c",
        "IgnoreUnknown=maybe",
        "IgnoreUnknown=1;a=b;a=c",
        "IgnoreUnknown=1;a=\n",
        "IgnoreUnknown=1;a=\0",
        "FOO=bar",
        "IgnoreUnknown=false;FOO=bar",
        "K8S_POD_NAMESPACE=default",
        "K8S_POD_NAME=web",
        "K8S_POD_NAMESPACE=..;K8S_POD_NAME=web",
        "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=web",
        "K8S_POD_NAMESPACE=default;K8S_POD_NAME=../web",
        "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web..0",
        "K8S_POD_NAMESPACE=default;K8S_POD_NAME=Web",
        "K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + "a" * 254,
        "K8S_POD_NAMESPACE=" + "a" * 64 + ";K8S_POD_NAME=web",
        "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=../../x",
    ],
)
def test_malformed_arguments_are_error_4(value: str) -> None:
    """CNI_ARGS that are malformed, unknown or do not name a valid pod are error 4."""
    error = call(config(), environ(ARGS=value)).error
    assert error["code"] == 4
    assert "CNI_ARGS" in error["msg"]


@pytest.mark.parametrize("truth", ["1", "true", "TRUE", "True"])
def test_unknown_arguments_are_ignored_on_request(truth: str) -> None:
    """IgnoreUnknown in CNI_ARGS is honoured at any position."""
    request = ask(ARGS=f"FOO=bar;IgnoreUnknown={truth}")
    assert request.args == {"FOO": "bar", "IgnoreUnknown": truth}
    assert request.pod is None


def test_every_bad_variable_is_explained() -> None:
    """One error names all invalid variables, with a reason for each."""
    error = call(config(), environ(CONTAINERID="../x", IFNAME="a/b", NETNS=None, ARGS="=", PATH="\x1b")).error
    for name in ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS", "CNI_PATH"):
        assert name in error["msg"]
        assert f"{name}: " in error["details"]


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_variables_that_a_verb_does_not_know_are_ignored(command: str) -> None:
    """GC and STATUS ignore invalid variables about containers."""
    request = ask(COMMAND=command, CONTAINERID="../x", IFNAME="a/b", NETNS="x", ARGS="=")
    assert (request.container_id, request.ifname, request.netns, request.pod) == ("", "", None, None)


# --- the document


@pytest.mark.parametrize("command", list(SINCE))
@pytest.mark.parametrize("case", list(UNDECODABLE))
def test_what_is_no_json_object_is_error_6(command: str, case: str) -> None:
    """A document that is not a JSON object is error 6. The error names the position and has at most a short excerpt."""
    data, sign = UNDECODABLE[case]
    error = call(data, environ(COMMAND=command)).error
    assert (error["code"], error["cniVersion"]) == (6, "1.1.0")
    assert sign in error["msg"]
    assert len(error["msg"]) < 400


def test_version_reads_its_document_as_strictly() -> None:
    """VERSION rejects a document that is not JSON."""
    assert call(b"{", {"CNI_COMMAND": "VERSION"}).error["code"] == 6


@pytest.mark.parametrize(
    "case", ["empty", "NaN", "duplicate key", "100,000 lists", "17 MiB", "byte order mark"]
)
def test_the_module_says_the_same(case: str) -> None:
    """``python -m tailscale_cni`` rejects invalid documents with the same errors."""
    data, sign = UNDECODABLE[case]
    error = run_module(data, environ()).error
    assert error["code"] == 6
    assert sign in error["msg"]


def test_surrogate_pairs_and_escaped_backslashes_are_good() -> None:
    """Surrogate pairs and escaped backslashes before "ud83d" are valid."""
    value = document.decode(b'{"a": "\\ud83d\\ude00 \\\\ud83d \\uD83D\\uDE00"}')
    assert value == {"a": "\N{GRINNING FACE} \\ud83d \N{GRINNING FACE}"}


def test_a_large_document_is_read() -> None:
    """A document of 10 MB is valid."""
    assert call(config(note="a" * 10_000_000)).status == 0


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES)
@pytest.mark.parametrize("command", list(SINCE))
def test_a_value_of_the_wrong_type_is_error_7(command: str, key: str, value: object) -> None:
    """A value of the wrong type is error 7, which names the key."""
    error = call(config(**{key: value}), environ(COMMAND=command)).error
    assert error["code"] == 7
    assert key in error["msg"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_network_name_is_never_a_path(name: str) -> None:
    """An invalid network name is error 7. An unpaired surrogate is invalid JSON and error 6."""
    error = call(config(name=name)).error
    assert error["code"] == (6 if name == "\udcff" else 7)


@pytest.mark.parametrize("annotations", [7, "x", [], {"a": 1}, {"a": None}, {"a": {"b": "c"}}])
def test_annotations_are_strings(annotations: object) -> None:
    """Annotations that are not a map of strings are error 7."""
    error = call(config(runtimeConfig={ANNOTATIONS: annotations})).error
    assert error["code"] == 7
    assert ANNOTATIONS in error["msg"]


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize("prev_result", [..., None])
def test_a_chained_verb_needs_a_prev_result(command: str, prev_result: object) -> None:
    """ADD and CHECK without a prevResult are error 7. The hint says that the plugin must be chained."""
    error = call(config(prevResult=prev_result), environ(COMMAND=command)).error
    assert error["code"] == 7
    assert "prevResult" in error["msg"]
    assert "chained" in error["details"]


@pytest.mark.parametrize("command", ["DEL", "GC", "STATUS"])
@pytest.mark.parametrize("prev_result", [..., None])
def test_the_other_verbs_need_none(command: str, prev_result: object) -> None:
    """DEL, GC and STATUS work without a prevResult, because there is none after a failed ADD."""
    assert call(config(prevResult=prev_result), environ(COMMAND=command)).status == 0


# --- valid requests


def test_a_request_has_everything_that_was_asked() -> None:
    """A request has everything that containerd sends for a pod."""
    annotations = {"tailscale.com/enabled": "true"}
    entry = config(runtimeConfig={ANNOTATIONS: annotations}, stateDir="/x")
    request = ask(entry)
    assert (request.command, request.version, request.network) == ("ADD", "1.1.0", "cbr0")
    assert (request.container_id, request.ifname, request.netns) == ("8f2c41", "eth0", "/run/netns/cni-1")
    assert request.pod == Pod("media", "plex-0", "0a4ce9e4-6a0a-4a5c-9d21-9a5f7a0c8b11")
    assert request.path == ("/opt/cni/bin",)
    assert request.args["K8S_POD_INFRA_CONTAINER_ID"] == "8f2c41"
    assert (request.annotations, request.prev_result, request.config) == (annotations, PREV_RESULT, entry)


@pytest.mark.parametrize(
    ("runtime_config", "expected"),
    [
        (..., None),
        (None, None),
        ({}, None),
        ({"dns": {}}, None),
        ({ANNOTATIONS: None}, {}),
        ({ANNOTATIONS: {}}, {}),
    ],
)
def test_no_annotations_are_not_the_same_as_none_passed(runtime_config: object, expected: object) -> None:
    """None means that the runtime passes no annotations. Null is read as an empty map, because Go encodes an empty map as null."""
    assert ask(config(runtimeConfig=runtime_config)).annotations == expected


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_valid_attachments_are_known_by_container_and_interface(key: str) -> None:
    """Both keys for valid attachments are read. Additional keys of an attachment are ignored."""
    rows = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1", "netns": "/x"}]
    request = ask(config(**{key: rows}), COMMAND="GC")
    assert request.valid_attachments == (AttachmentKey("a", "eth0"), AttachmentKey("b", "net1"))
    assert ("a", "eth0") in request.valid_attachments


@pytest.mark.parametrize(("rows", "expected"), [(..., None), (None, ()), ([], ())])
def test_no_list_is_not_an_empty_list(rows: object, expected: object) -> None:
    """Null and [] mean that no attachment is valid. A missing key says nothing about attachments."""
    assert ask(config(**{"cni.dev/valid-attachments": rows}), COMMAND="GC").valid_attachments == expected


def test_the_specifications_key_is_preferred() -> None:
    """If both keys are there, as libcni sends them, cni.dev/valid-attachments is used."""
    keys = {"cni.dev/attachments": [], "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}
    assert ask(config(**keys), COMMAND="GC").valid_attachments == (("a", "eth0"),)


# --- arbitrary input


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(ENVIRON)), HOSTILE_TEXT),
    st.one_of(st.binary(), HOSTILE_TEXT.map(lambda text: text.encode(errors="replace")), st.just(b"{}")),
)
def test_nothing_but_our_errors_comes_out(variables: dict[str, str], data: bytes) -> None:
    """With any environment and any bytes, ``parse`` returns a request or raises one of the package's errors."""
    with contextlib.suppress(errors.Error):
        parse(variables, data)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(SINCE)),
    st.dictionaries(
        st.sampled_from(
            ["cniVersion", "name", "prevResult", "runtimeConfig", "cni.dev/valid-attachments", ANNOTATIONS]
        ),
        JSON,
    ),
)
def test_every_json_is_answered(command: str, changes: dict[str, Any]) -> None:
    """With any JSON in its configuration, a call succeeds or prints a CNI error."""
    answer = call(config(**changes), environ(COMMAND=command))
    assert answer.status == 0 or answer.error["code"] in {1, 6, 7}


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4), st.booleans())
def test_decoding_is_faithful(value: dict[str, Any], ensure_ascii: bool) -> None:  # noqa: FBT001
    """Decoding and encoding JSON preserve values, types and the order of keys."""
    decoded = document.decode(json.dumps(value, ensure_ascii=ensure_ascii).encode())
    assert repr(decoded) == repr(value)
    assert repr(json.loads(document.encode(decoded))) == repr(value)
