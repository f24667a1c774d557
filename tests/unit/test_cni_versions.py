"""CNI versions and verbs: answers are in the caller's version, and a verb exists from the version that added it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest

from tailscale_cni.cni import dispatch

from .cni_call import PREV_RESULT, SINCE, VERSIONS, call, config, environ, run_module

if TYPE_CHECKING:
    from tailscale_cni.cni.request import Request

MATRIX = [(verb, version) for verb in SINCE for version in VERSIONS]


@pytest.mark.parametrize(("verb", "version"), MATRIX)
def test_a_verb_exists_from_its_version_on(verb: str, version: str) -> None:
    """A verb runs with the requested version. In a version without the verb, the call is error 1."""
    asked: list[Request] = []
    answer = call(config(cniVersion=version), environ(COMMAND=verb), asked.append)
    if VERSIONS.index(version) >= VERSIONS.index(SINCE[verb]):
        assert answer.status == 0
        assert [(request.command, request.version) for request in asked] == [(verb, version)]
    else:
        assert not asked
        assert (answer.error["code"], answer.error["cniVersion"]) == (1, version)
        assert SINCE[verb] in answer.error["msg"]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_add_is_answered_in_the_callers_version(version: str) -> None:
    """The result of ADD has the version of the call, not that of prevResult."""
    assert call(config(cniVersion=version)).json == {**PREV_RESULT, "cniVersion": version}


@pytest.mark.parametrize("verb", [verb for verb in SINCE if verb != "ADD"])
def test_only_an_add_has_a_result(verb: str) -> None:
    """Verbs other than ADD print nothing on success."""
    assert call(config(), environ(COMMAND=verb))[:2] == (0, b"")


@pytest.mark.parametrize("verb", list(SINCE))
@pytest.mark.parametrize(
    "version", [..., None, "", "0.1.0", "0.2.0", "0.5.0", "1.2.0", "2.0.0", "v1.0.0", "1.1.0\n", "x" * 9999]
)
def test_a_version_that_is_not_spoken_is_error_1(verb: str, version: object) -> None:
    """An unsupported version is error 1, in the newest version. The error lists the supported versions."""
    error = call(config(cniVersion=version), environ(COMMAND=verb)).error
    assert (error["code"], error["cniVersion"]) == (1, "1.1.0")
    assert all(spoken in error["details"] for spoken in VERSIONS)
    assert len(error["msg"]) < 1000


@pytest.mark.parametrize("version", [1, 1.1, True, ["1.1.0"], {"1.1.0": 1}])
def test_a_version_that_is_no_string_is_error_7(version: object) -> None:
    """A cniVersion of the wrong type is error 7, which names the key."""
    error = call(config(cniVersion=version)).error
    assert error["code"] == 7
    assert "cniVersion" in error["msg"]


@pytest.mark.parametrize("version", VERSIONS)
def test_errors_are_told_in_the_callers_version(version: str) -> None:
    """Errors are in the caller's version, even if the environment is invalid."""
    assert call(config(cniVersion=version, name=7)).error["cniVersion"] == version
    assert call(config(cniVersion=version), {}).error["cniVersion"] == version


@pytest.mark.parametrize("version", VERSIONS)
def test_version_is_answered_in_the_callers_version(version: str) -> None:
    """VERSION needs only CNI_COMMAND and a cniVersion, and answers in that version."""
    answer = call({"cniVersion": version}, {"CNI_COMMAND": "VERSION"})
    assert (answer.status, answer.json) == (0, {"cniVersion": version, "supportedVersions": list(VERSIONS)})


@pytest.mark.parametrize(
    "entry",
    [b"", b" \n", b"{}", b'{"cniVersion": "0.2.0"}', b'{"cniVersion": "9.0.0"}', b'{"cniVersion": 1}'],
)
def test_version_answers_whoever_asks(entry: bytes) -> None:
    """VERSION answers callers of unsupported versions with the list of supported versions."""
    answer = call(entry, {"CNI_COMMAND": "VERSION"})
    assert (answer.status, answer.json["cniVersion"]) == (0, "1.1.0")


def test_version_does_not_wait_for_a_person_to_type_a_document() -> None:
    """On a terminal, VERSION answers without reading a document. Other verbs fail with an error."""
    ours, theirs = os.openpty()
    stdout, stderr = io.BytesIO(), io.StringIO()
    with os.fdopen(ours, "rb", 0), os.fdopen(theirs, "rb", 0) as terminal:
        assert dispatch.main({"CNI_COMMAND": "VERSION"}, terminal, stdout, stderr, _no_verb) == 0
        assert dispatch.main(environ(), terminal, stdout, stderr, _no_verb) == 1
    assert "terminal" in stdout.getvalue().decode()


def _no_verb(command: str) -> dispatch.Verb:
    raise AssertionError(command)


def test_the_module_answers_version() -> None:
    """``python -m tailscale_cni`` answers VERSION with only CNI_COMMAND set."""
    answer = run_module({"cniVersion": "0.4.0"}, {"CNI_COMMAND": "VERSION"})
    assert (answer.status, answer.json) == (0, {"cniVersion": "0.4.0", "supportedVersions": list(VERSIONS)})


@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")])
def test_the_module_knows_no_verb_before_its_version(verb: str, version: str) -> None:
    """``python -m tailscale_cni`` rejects a verb in a version without it."""
    error = run_module(config(cniVersion=version), environ(COMMAND=verb)).error
    assert (error["code"], error["cniVersion"]) == (1, version)
