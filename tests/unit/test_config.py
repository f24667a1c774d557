"""The host's configuration: what is in force, and what is said of what cannot be."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import pytest

from tailscale_cni import config, errors
from tailscale_cni.config import Config

if TYPE_CHECKING:
    from pathlib import Path


def load(tmp_path: Path, text: str | None = None, **entry: Any) -> Config:
    """The configuration of a host with this file and this conflist entry."""
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    return Config.load({"type": "tailscale-cni", "name": "net", "configFile": str(file), **entry})


def test_without_a_file_the_defaults_are_in_force(tmp_path: Path) -> None:
    """A host that configures nothing enrols annotated pods with Tailscale's control plane."""
    host = load(tmp_path)
    assert host.control_url == "https://controlplane.tailscale.com"
    assert host.enroll == "annotated"
    assert host.ready_timeout == 10
    assert host.state_dir == config.STATE_DIR


def test_the_entry_wins_over_the_file(tmp_path: Path) -> None:
    """A key that both set is the entry's; what only the file sets stays the file's."""
    host = load(tmp_path, "readyTimeout: 3s\nunderlay: pod\n", readyTimeout="500ms")
    assert (host.ready_timeout, host.underlay) == (0.5, "pod")


def test_values_are_typed(tmp_path: Path) -> None:
    """Networks, ranges and lists come out as what they are."""
    host = load(
        tmp_path, "clusterCIDRs: [10.42.0.0/16, 'fd00::/56']\nports: 30-40\n".replace("30-40", "3000-4000")
    )
    assert host.cluster_cidrs == (ipaddress.ip_network("10.42.0.0/16"), ipaddress.ip_network("fd00::/56"))
    assert host.ports == (3000, 4000)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("readyTimeout", "soon", "a duration"),
        ("readyTimeout", -1, "a duration"),
        ("readyTimeout", True, "a duration"),
        ("controlURL", "headscale.example.com", "URL"),
        ("controlURL", "https://user@example.com", "URL"),
        ("controlURL", "http://[::1", "URL"),
        ("clusterCIDRs", ["10.42.0.1/16"], "networks"),
        ("clusterCIDRs", "10.42.0.0/16", "a list"),
        ("tags", ["k8s"], "tags"),
        ("tags", ["tag:1x"], "tags"),
        ("ports", "22", "a range"),
        ("ports", "2000-1000", "a range"),
        ("uidBase", 0, "a user ID"),
        ("authKeyFile", "authkey", "an absolute path"),
        ("authKeyFile", "/a/../b", "an absolute path"),
        ("antiSpoofing", "yes", "true or false"),
        ("stateDir", "/a\nb", "an absolute path"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_should_be(
    tmp_path: Path, key: str, value: object, expected: str
) -> None:
    """The error names where, which key, which value and what was expected."""
    with pytest.raises(errors.InvalidConfiguration) as caught:
        load(tmp_path, **dict[str, Any]([(key, value)]))
    assert key in str(caught.value)
    assert "the conflist entry" in str(caught.value)
    assert expected in caught.value.advice


def test_a_word_that_is_not_supported_has_its_own_code(tmp_path: Path) -> None:
    """CNI's code 2 names key and value."""
    with pytest.raises(errors.UnsupportedField, match="enroll: the value 'some'") as caught:
        load(tmp_path, enroll="some")
    assert caught.value.code == 2
    assert "annotated or all" in caught.value.advice


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    """A typing error is mended by reading the message."""
    with pytest.raises(errors.InvalidConfiguration) as caught:
        load(tmp_path, "controlUrl: https://headscale.example.com\n")
    assert str(tmp_path / "config.yaml") in str(caught.value)
    assert "Did you mean controlURL?" in caught.value.advice


@pytest.mark.parametrize(
    "text", ["a: [", "- a", "a: &a [*a", "\t", "? [x]\n: y", "!!python/object/apply:os.system [x]"]
)
def test_a_file_that_is_no_map_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    """Whatever is in the file, nothing but our error comes of it."""
    with pytest.raises(errors.InvalidConfiguration):
        load(tmp_path, text)


def test_the_roots_are_not_keys_of_the_file(tmp_path: Path) -> None:
    """The door needs them before it can read YAML, so they stand in the entry alone."""
    with pytest.raises(errors.InvalidConfiguration):
        load(tmp_path, "stateDir: /somewhere\n")


def test_cleanup_needs_no_valid_configuration(tmp_path: Path) -> None:
    """DEL and GC find the state although the configuration is broken by now."""
    (tmp_path / "config.yaml").write_text("nonsense: [")
    entry = {"configFile": str(tmp_path / "config.yaml"), "stateDir": "/elsewhere", "tags": 7}
    assert Config.for_cleanup(entry).state_dir == "/elsewhere"


def test_what_the_door_knows_changes_with_the_file(tmp_path: Path) -> None:
    """A changed, new or removed file is another view, so that the door goes and asks."""
    before = config.door_view(load(tmp_path))
    assert config.door_view(load(tmp_path, "enroll: all\n")) != before


def test_what_the_runtime_puts_into_an_entry_is_no_key_of_ours(tmp_path: Path) -> None:
    """libcni adds its own keys to what a plugin gets."""
    extra: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "prevResult": {},
        "runtimeConfig": {},
        "cni.dev/valid-attachments": [],
    }
    assert load(tmp_path, **extra) == load(tmp_path)


def test_the_door_learns_of_a_change_that_came_after_the_file_was_read(tmp_path: Path) -> None:
    """What the door is told is of the file as it was read: one that was changed during a long ADD is a doubt to it."""
    host = load(tmp_path, "enroll: annotated\n")
    (tmp_path / "config.yaml").write_text("enroll: all\n")
    watch = config.door_view(host)["watch"]
    assert watch != {host.config_file: config.fingerprint(host.config_file)}


@pytest.mark.parametrize("user", ["me", "me:secret", ":secret", ""])
def test_a_control_planes_url_has_no_user(tmp_path: Path, user: str) -> None:
    """It would be part of the worker's command line, which everybody can read; the refusal does not show it either."""
    with pytest.raises(errors.InvalidConfiguration) as refused:
        load(tmp_path, controlURL=f"https://{user}@headscale.example.com")
    assert "secret" not in str(refused.value)
