"""The Kubernetes client: how it reads kubeconfigs and the API's answers."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailscale_cni import errors
from tailscale_cni.identity.secret_store import NAMESPACE
from tailscale_cni.kube.client import MAX_ANSWER, OUT_OF_SERVICE, Api, Conflict, Node
from tailscale_cni.kube.kubeconfig import load

from .cni_call import ROOT
from .kubernetes import TOKEN, ApiServer, certificate, kubeconfig


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """An API server without TLS."""
    server = ApiServer()
    yield server
    server.close()


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Api:
    """A client of the API server."""
    return Api(load(str(kubeconfig(tmp_path / "kubeconfig", server.url))), 5.0)


def data(path: Path) -> str:
    """Returns a file's content as base64, as in a kubeconfig."""
    return base64.b64encode(path.read_bytes()).decode()


@pytest.mark.parametrize("inline", [True, False], ids=["data", "files"])
@pytest.mark.parametrize("by", ["token", "tokenFile", "certificate"])
def test_speaks_tls_with_what_a_kubeconfig_gives(tmp_path: Path, by: str, *, inline: bool) -> None:
    """TLS works with an authority, token or client certificate in the kubeconfig or in a file. Other authorities are not trusted."""
    (pem, key), (client, client_key) = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    context.load_verify_locations(client)
    context.verify_mode = ssl.CERT_OPTIONAL
    server = ApiServer(context)
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    user: dict[str, Any] = {"token": {"token": TOKEN}, "tokenFile": {"tokenFile": "token"}}.get(by, {})
    if by == "certificate":
        user = {"client-certificate": "client.crt", "client-key": "client.key"}
        if inline:
            user = {"client-certificate-data": data(client), "client-key-data": data(client_key)}
    authority = (
        {"certificate-authority-data": data(pem)} if inline else {"certificate-authority": "server.crt"}
    )
    try:
        server.namespace("media", {"a": "b"})
        file = kubeconfig(tmp_path / "kubeconfig", server.url, user, **authority)
        assert Api(load(str(file)), 5.0).namespace_annotations("media") == {"a": "b"}
        stranger = kubeconfig(
            tmp_path / "stranger", server.url, user, **{"certificate-authority": "client.crt"}
        )
        with pytest.raises(errors.KubernetesFailed, match="certificate is not trusted"):
            Api(load(str(stranger)), 5.0).namespace_annotations("media")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("user", "cluster", "reason"),
    [
        ({"exec": {"command": "aws"}}, {}, "'exec' is not supported"),
        ({"username": "a", "password": "secret-word"}, {}, "'password' is not supported"),
        ({"token": "secret-word\n"}, {}, "its token is none"),
        ({"token": ["secret-word"]}, {}, "its token is none"),
        ({"tokenFile": "missing"}, {}, "missing: No such file"),
        ({"tokenFile": "wide"}, {}, "wide is not a file of root's alone"),
        ({"client-certificate-data": "AA=="}, {}, "go together"),
        ({"client-certificate-data": "secret-word!"}, {}, "client-certificate-data is not base64"),
        ({}, {"insecure-skip-tls-verify": True}, "'insecure-skip-tls-verify' is not supported"),
        ({}, {"server": "http://10.0.0.1:6443"}, "is no https URL"),
        ({}, {"server": "http://secret-word@127.0.0.1"}, "is no https URL"),
        ({}, {"server": "https://"}, "is no https URL"),
        ({}, {"server": "https://a:99999"}, "is no https URL"),
        ({}, {"server": ["a"]}, "is no https URL"),
        ({}, {"certificate-authority": "/dev/null"}, "is not a file"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], reason: str
) -> None:
    """The error for an unusable kubeconfig names the file and the reason, and shows no secret."""
    (tmp_path / "wide").write_text("secret-word")
    file = kubeconfig(tmp_path / "kubeconfig", cluster.pop("server", "https://a"), user, **cluster)
    with pytest.raises(errors.BadKubeconfig) as caught:
        load(str(file))
    assert reason in str(caught.value)
    assert str(file) in str(caught.value)
    assert "secret-word" not in f"{caught.value}{caught.value.advice}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("users:\n- {user: {token: secret-word", "line 2 is not YAML"),
        ("a: !!python/object/apply:os.getpid []", "is not YAML"),
        ("[]", "not a map"),
        ("", "not a map"),
        ("{}", "it has no context"),
        ("contexts: 3\ncurrent-context: a", "it has no context"),
        ("contexts: [{name: a, context: {cluster: b}}]\ncurrent-context: a", "it has no cluster"),
        ("\x00", "is not YAML"),
        ("[" * 100_000, "is not YAML"),
        ("#" * 2**21, "larger"),
    ],
)
def test_a_broken_kubeconfig_is_an_error_of_ours(tmp_path: Path, text: str, reason: str) -> None:
    """Any invalid kubeconfig is BadKubeconfig. The error does not quote the file."""
    file = tmp_path / "kubeconfig"
    file.touch(0o600)
    file.write_text(text)
    with pytest.raises(errors.BadKubeconfig, match=reason) as caught:
        load(str(file))
    assert "secret-word" not in str(caught.value)


def test_a_kubeconfig_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A kubeconfig that other users can read is rejected. The error has the command that fixes it."""
    file = kubeconfig(tmp_path / "kubeconfig", "https://a")
    file.chmod(0o644)
    with pytest.raises(errors.BadKubeconfig) as caught:
        load(str(file))
    assert f"chmod 600 {file}" in caught.value.advice


def test_a_servers_path_is_in_front(tmp_path: Path, server: ApiServer) -> None:
    """A path in the server's URL is a prefix of all requests, as for clusters of Rancher."""
    server.objects["/k8s/clusters/c-1/api/v1/namespaces/media"] = {"metadata": {"annotations": {"a": "b"}}}
    file = kubeconfig(tmp_path / "kubeconfig", f"{server.url}/k8s/clusters/c-1/")
    assert Api(load(str(file)), 5.0).namespace_annotations("media") == {"a": "b"}


def test_what_is_not_there_is_none(api: Api) -> None:
    """The annotations of a missing namespace and the controller of a missing pod are None."""
    assert api.namespace_annotations("gone") is None
    assert api.controller("gone", "pod", None) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (403, "403: the reason of 403"),
        (500, "500: the reason of 500"),
        (302, "302: the reason of 302 (a redirect, which is not followed)"),
        (b"[]", "no object"),
        (b"{", "no object"),
        (b"[" * 100_000, "no object"),
        (b"", "no object"),
        (b" " * (MAX_ANSWER + 1), "larger"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_ours(
    api: Api, server: ApiServer, answer: int | bytes, reason: str
) -> None:
    """Any invalid answer is KubernetesFailed. A redirect is not followed, so that its target does not get the token."""
    server.objects["/api/v1/namespaces/media"] = answer
    with pytest.raises(errors.KubernetesFailed) as caught:
        api.namespace_annotations("media")
    assert reason in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_only_strings_are_taken(api: Api, server: ApiServer) -> None:
    """Annotations that are not strings are left out. Annotations that are not a map are an empty map."""
    server.objects["/api/v1/namespaces/a"] = {"metadata": {"annotations": {"a": "b", "c": 1, "d": None}}}
    server.objects["/api/v1/namespaces/b"] = {"metadata": []}
    assert api.namespace_annotations("a") == {"a": "b"}
    assert api.namespace_annotations("b") == {}


OWNER = {"kind": "ReplicaSet", "name": "web-7b5d9c6f8", "controller": True}


@pytest.mark.parametrize(
    ("references", "found"),
    [
        ([OWNER], ("ReplicaSet", "web-7b5d9c6f8")),
        ([{**OWNER, "controller": False}, {**OWNER, "name": "b"}], ("ReplicaSet", "b")),
        (None, ("Pod", "web-x")),
        ([], ("Pod", "web-x")),
        (
            [{**OWNER, "name": "a/b"}, 3, {**OWNER, "kind": ["a"]}, {**OWNER, "name": "a" * 300}],
            ("Pod", "web-x"),
        ),
    ],
)
def test_a_pods_controller(api: Api, server: ApiServer, references: Any, found: tuple[str, str]) -> None:
    """A pod's controller is the marked owner with a valid name, or else the pod itself. A pod with another UID has none."""
    server.pod("media", "web-x", uid="1", ownerReferences=references)
    assert api.controller("media", "web-x", "1") == found
    assert api.controller("media", "web-x", None) == found
    assert api.controller("media", "web-x", "2") is None


def test_a_server_that_hangs_costs_no_more_than_its_time(server: ApiServer, tmp_path: Path) -> None:
    """A server that accepts the connection and never answers cannot exceed the timeout."""
    server.hang.clear()
    api = Api(load(str(kubeconfig(tmp_path / "kubeconfig", server.url))), 0.05)
    with pytest.raises(errors.KubernetesFailed, match=r"timed out|in time"):
        api.namespace_annotations("media")


def test_a_server_that_is_down_is_named(server: ApiServer, api: Api) -> None:
    """The error for an unreachable server has its address."""
    server.close()
    with pytest.raises(errors.KubernetesFailed, match=server.url):
        api.namespace_annotations("media")


def test_it_shows_no_secret(tmp_path: Path) -> None:
    """The representation of a kubeconfig shows no token."""
    assert TOKEN not in repr(load(str(kubeconfig(tmp_path / "kubeconfig", "https://a"))))


def test_the_manifest_allows_what_is_asked_and_no_more() -> None:
    """The manifest grants one account ``get`` on namespaces, pods and nodes, and Secrets in one namespace. Its token does not expire."""
    objects = list(yaml.safe_load_all((ROOT / "manifests" / "rbac.yaml").read_text(encoding="utf-8")))
    found = {item["kind"]: item for item in objects}
    assert sorted(item["kind"] for item in objects) == [
        *("ClusterRole", "ClusterRoleBinding", "Namespace", "Role", "RoleBinding", "Secret", "ServiceAccount")
    ]
    assert found["ClusterRole"]["rules"] == [
        {"apiGroups": [""], "resources": ["namespaces", "pods", "nodes"], "verbs": ["get"]}
    ]
    assert found["Role"]["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "create", "update", "delete"]}
    ]
    account = found["ServiceAccount"]["metadata"]
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        assert found[kind]["subjects"] == [{"kind": "ServiceAccount", **account}]
    ours = {
        found["Namespace"]["metadata"]["name"],
        *(found[k]["metadata"]["namespace"] for k in ("Role", "RoleBinding")),
    }
    assert ours == {NAMESPACE}
    assert account["namespace"] != NAMESPACE  # the account cannot read the Secret of its own token
    assert found["ServiceAccount"]["automountServiceAccountToken"] is False
    assert found["Secret"]["type"] == "kubernetes.io/service-account-token"
    assert found["Secret"]["metadata"]["annotations"] == {
        "kubernetes.io/service-account.name": account["name"]
    }


@pytest.mark.parametrize(
    ("status", "answer", "raised"),
    [
        (409, None, Conflict),
        (404, None, Conflict),
        (403, None, errors.KubernetesForbids),
        (401, None, errors.KubernetesForbids),
        (500, None, errors.KubernetesFailed),
        (302, None, errors.KubernetesFailed),
        (200, b"[]", errors.KubernetesFailed),
    ],
)
def test_a_change_that_is_not_made_says_why(
    server: ApiServer, api: Api, status: int, answer: bytes | None, raised: type[Exception]
) -> None:
    """A conflict, a missing permission and a failing API raise different errors, because they need different actions."""
    server.objects["/api/v1/x"] = answer or status
    with pytest.raises(raised) as caught:
        api.change("PUT", "/api/v1/x", {"a": "b"})
    assert caught.type is raised
    assert TOKEN not in str(caught.value)


def test_a_change_is_what_the_api_makes_of_it(server: ApiServer, api: Api) -> None:
    """POST, PUT and DELETE send their body and return the API's object. POST to a missing namespace is KubernetesForbids."""
    server.objects["/api/v1/x"] = {"kind": "Secret", "metadata": {"resourceVersion": "2"}}
    for method in ("POST", "PUT", "DELETE"):
        assert api.change(method, "/api/v1/x", {"a": method})["metadata"] == {"resourceVersion": "2"}
    assert server.bodies == [{"a": method} for method in ("POST", "PUT", "DELETE")]
    with pytest.raises(errors.KubernetesForbids, match="404"):
        api.change("POST", "/api/v1/none", {})


def test_a_node_is_told_by_its_uid(server: ApiServer, api: Api) -> None:
    """A Node's UID, its readiness and its out-of-service taint are read. No request is made for an invalid name."""
    taints = [{"key": "other"}, {"key": OUT_OF_SERVICE, "effect": "NoExecute"}]
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    server.objects["/api/v1/nodes/a"] = {"metadata": {"uid": "u"}, "status": ready}
    server.objects["/api/v1/nodes/b"] = {
        "metadata": {"uid": "v"},
        "spec": {"taints": taints},
        "status": {"conditions": 3},
    }
    assert api.node("a") == Node("u", out_of_service=False, ready=True)
    assert api.node("b") == Node("v", out_of_service=True, ready=False)
    assert api.node("c") is None
    before = len(server.asked)
    assert api.node("../secrets/a?") is None
    assert len(server.asked) == before


def test_a_pods_node_is_that_of_this_pod(server: ApiServer, api: Api) -> None:
    """A pod's Node is known only if the UID matches and the Node's name is valid."""
    server.objects["/api/v1/namespaces/n/pods/p"] = {"metadata": {"uid": "u"}, "spec": {"nodeName": "a"}}
    server.objects["/api/v1/namespaces/n/pods/q"] = {"metadata": {"uid": "u"}, "spec": {"nodeName": "../a"}}
    assert api.node_of("n", "p", "u") == "a"
    assert api.node_of("n", "p", "other") == api.node_of("n", "q", "u") == api.node_of("n", "none", "u") == ""
