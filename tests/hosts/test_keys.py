"""A key per pod on a whole host. The node registers with the key that ADD requested, whichever process starts the node."""

from __future__ import annotations

import pytest

from tests.kit.controlplane import Client, ControlPlane
from tests.kit.process import processes
from tests.kit.runtime import CNIError, Pod
from tests.kit.wait import wait_until

from .podhost import BINARY, CONFIG, RUN, STATE, PodHost


def _installed(bare: PodHost, control: ControlPlane) -> Client:
    client = control.new_client()
    bare.install_client(client.secret)
    return client


def test_a_pod_takes_one_key(bare: PodHost, control: ControlPlane) -> None:
    """A pod uses one new key. Key and secret are in no other file, argument or environment, and DEL leaves nothing."""
    client = _installed(bare, control)
    before = {key["id"] for key in control.auth_keys()}
    web = bare.start(Pod.enrolled("web"))
    row = bare.running(web)
    (key,) = [key for key in control.auth_keys() if key["id"] not in before]
    assert (key["used"], key["reusable"]) == (True, False)
    words = f"{key['id']}|{client.secret}"
    found = bare.host.attempt("grep", "-rslE", words, "/etc", "/var", RUN, "/run/log").stdout.decode()
    assert found.split() == [f"{CONFIG}/oauth-client-secret"]
    shown = ["\0".join((*process.argv, process.environ)) for process in processes()]
    assert not [text for text in shown if key["id"] in text or client.secret in text]
    assert not bare.host.file(f"{RUN}/{bare.id(web)}/start").exists
    bare.call("DEL", web)
    assert bare.node(row) is None
    assert bare.leftovers() == []


def test_a_refusal_fails_the_pod(bare: PodHost, control: ControlPlane) -> None:
    """If the OAuth client is revoked, ADD fails and names the secret's file, also where systemd starts the node."""
    client = _installed(bare, control)
    control.revoke_client(client)
    web = bare.sandbox(Pod.enrolled("web"))
    with pytest.raises(CNIError) as error:
        bare.call("ADD", web)
    said = error.value.msg + error.value.details
    assert error.value.code == 122
    assert f"{CONFIG}/oauth-client-secret" in said
    assert client.secret not in said
    bare.call("DEL", web)
    assert bare.leftovers() == []


def test_a_node_without_a_key_gets_one(bare: PodHost, control: ControlPlane) -> None:
    """A pod that starts while the control plane is down joins the tailnet when the control plane is back."""
    _installed(bare, control)
    bare.host.run("sh", "-c", f"echo readyTimeout: 300ms >>{CONFIG}/config.yaml")
    with control.outage():
        web = bare.start(Pod.enrolled("web"))
        wait_until(lambda: bare.status()["web"]["state"] != "Running", what="a node that waits")
    bare.running(web)


def test_uninstall_can_forget_what_is_kept(bare: PodHost, control: ControlPlane) -> None:
    """``uninstall --forget-identities`` deletes all retained nodes from the tailnet, including those of running pods."""
    bare.install_client(control.new_client().secret)
    gone, runs = (bare.start(Pod.enrolled(f"kept-{n}")) for n in (0, 1))
    rows = [bare.running(gone), bare.running(runs)]
    bare.call("DEL", gone)
    assert bare.node(rows[0])
    done = bare.host.attempt(BINARY, "uninstall", "--forget-identities")
    assert done.returncode == 0, done.stderr
    assert b"in the tailnet:" not in done.stderr
    assert [bare.node(row) for row in rows] == [None, None]
    assert not bare.host.file(STATE).exists


def test_uninstall_says_what_it_leaves_in_the_tailnet(bare: PodHost, control: ControlPlane) -> None:
    """``uninstall`` names the retained nodes that stay in the tailnet. They stay offline, because their keys are gone."""
    bare.install_client(control.new_client().secret)
    pod = bare.start(Pod.enrolled("stays-0"))
    row = bare.running(pod)
    bare.call("DEL", pod)
    done = bare.host.attempt(BINARY, "uninstall")
    assert done.returncode == 0, done.stderr
    assert b"the node of 1 retained identity stays in the tailnet: default/stays-0" in done.stderr
    node = bare.node(row)
    assert node
    control.delete_node(node["id"])
