"""The intent of a call: how configuration and policy combine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailscale_cni import errors
from tailscale_cni.cni import request
from tailscale_cni.node.resolve import Resolution, resolve

from .cni_call import config, environ


def wish(tmp_path: Path, settings: object, pod: str = "plex-0", **annotations: str) -> Resolution:
    """Returns what an ADD of pod media/POD resolves on a host with this configuration file. ``_`` in an annotation stands for ``/``."""
    file = tmp_path / "config.yaml"
    file.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings), encoding="utf-8")
    given = {request.ANNOTATIONS: {key.replace("_", "/"): value for key, value in annotations.items()}}
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=media;K8S_POD_NAME={pod}"
    data = json.dumps(config(configFile=str(file), runtimeConfig=given)).encode()
    return resolve(request.parse(environ(ARGS=args), data))


ENABLED: dict[str, Any] = {"tailscale.com_enabled": "true"}


@pytest.mark.parametrize(
    ("settings", "tags"),
    [
        ({}, "tag:ns-media"),
        ({"autoNamespaceTag": True}, ""),
        ({"tags": ["tag:a", "tag:b"]}, "tag:ns-media"),
        ({"tags": ["tag:a", "tag:ns-media"]}, "tag:ns-media"),
        ({"namespaces": {"media": {"tailscale.com/tags": "tag:a"}}}, ""),
    ],
)
def test_a_static_key_has_its_tags(tmp_path: Path, settings: dict[str, Any], tags: str) -> None:
    """With a static auth key, a node has exactly the key's tags. Asking for others is an error."""
    asked = {"tailscale.com_tags": tags} if tags else {}
    with pytest.raises(errors.KeyHasItsTags, match=r"^pod media/plex-0: the node cannot have the tags tag:"):
        wish(tmp_path, settings, **ENABLED, **asked)


def test_a_static_keys_tags_may_be_asked_for(tmp_path: Path) -> None:
    """With a static auth key, a pod may ask for the key's tags in any order."""
    found = wish(tmp_path, {"tags": ["tag:a", "tag:b"]}, **ENABLED, **{"tailscale.com_tags": "tag:b,tag:a"})
    assert found.intent
    assert found.intent.tags == ("tag:b", "tag:a")


@pytest.mark.parametrize("key", ["oauthClientSecretFile", "headscaleAPIKeyFile"])
def test_a_key_per_pod_has_the_pods_tags(tmp_path: Path, key: str) -> None:
    """If the control plane creates an auth key per pod, the pod gets its permitted tags."""
    found = wish(tmp_path, {key: "/secret"}, **ENABLED, **{"tailscale.com_tags": "tag:ns-media"})
    assert found.intent
    assert found.intent.tags == ("tag:ns-media",)


@pytest.mark.parametrize("source", ["file", "http"])
def test_a_static_pods_name_has_its_hosts_cut_off(tmp_path: Path, source: str) -> None:
    """The Node's name is removed from the hostname of a static pod, to whose name kubelet appends it."""
    host = os.uname().nodename.lower()
    annotations = ENABLED | {"kubernetes.io_config.source": source}
    found = wish(tmp_path, {}, f"etcd-{host}", **annotations)
    assert found.intent
    assert found.intent.name == "etcd"
    found = wish(tmp_path, {}, f"etcd-{host}", **annotations | {"kubernetes.io_config.source": "api"})
    assert found.intent
    assert found.intent.name != "etcd"


@pytest.mark.parametrize(
    "settings",
    [
        "nonsense: [",
        "enroll: al\n",
        "namespaces: {media: {tailscale.com/enabled: 'yes'}}",
        "namespaces: {other: {tailscale.com/hostnam: x}}",
        "permissions: {'*': {features: [unheard-of]}}",
    ],
)
def test_a_broken_file_stops_only_pods_that_ask(tmp_path: Path, settings: str) -> None:
    """An invalid configuration fails only pods that ask to be enrolled, so that a cluster's DNS still starts."""
    assert wish(tmp_path, settings).intent is None
    with pytest.raises((errors.InvalidConfiguration, errors.UnsupportedField)):
        wish(tmp_path, settings, **ENABLED)
