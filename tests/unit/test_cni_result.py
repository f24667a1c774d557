"""prevResult is passed on unchanged, and is understood from any plugin and any CNI version."""

from __future__ import annotations

import contextlib
from ipaddress import ip_interface
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailscale_cni import errors
from tailscale_cni.cni import result

from .cni_call import PREV_RESULT, VERSIONS, call, config

BRIDGE = PREV_RESULT
CILIUM = {
    "interfaces": [{"name": "lxc4f1"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"interface": 1, "address": "10.0.1.5/32", "gateway": "10.0.1.1"}],
}
CALICO = {"interfaces": [{"name": "cali1a2b"}], "ips": [{"address": "192.168.3.4/32"}]}
CALICO_WITH_INDEX = {
    "interfaces": [{"name": "cali1a2b"}],
    "ips": [{"address": "192.168.3.4/32", "interface": 0}],
}
BANDWIDTH = {**BRIDGE, "interfaces": [*BRIDGE["interfaces"], {"name": "bwp12ab"}]}
MACVLAN_0_3_1 = {
    "cniVersion": "0.3.1",
    "interfaces": [{"name": "eth0", "mac": "aa:bb:cc:dd:ee:ff", "sandbox": "/run/netns/x"}],
    "ips": [{"version": "4", "interface": 0, "address": "10.9.0.2/16", "gateway": "10.9.0.1"}],
}

RESULT = {
    "kubernetes.io/unknown": {"b": [1, 1.0, -0.0, 1e22, 0.1, 12345678901234567890123, True, None], "a": ""},
    "interfaces": [
        {"name": "veth1", "mac": "", "mtu": 1450, "socketPath": "/run/vpp/x.sock", "pciID": "0000:3b:02.0"},
        {"name": "eth0", "sandbox": "/run/netns/x", "mtu": 1450},
    ],
    "cniVersion": "1.0.0",
    "ips": [{"interface": 0, "address": "10.0.0.1/24"}, {"address": "fd00::1/64", "gateway": None}],
    "routes": [
        {
            "dst": "10.0.0.0/8",
            "gw": "10.0.0.1",
            "mtu": 1300,
            "advmss": 1260,
            "priority": 7,
            "table": 52,
            "scope": 253,
        }
    ],
    "dns": {"nameservers": [], "search": ["a.b"], "options": ["ndots:5"]},
    "\N{SNOWMAN}\n": "\N{GRINNING FACE}\u2028\x7f",
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
VALUE = st.one_of(
    st.none(), st.integers(-1, 3), st.sampled_from(["", "eth0", "10.0.0.1/8", "fd00::1"]), st.text(max_size=4)
)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["name", "mac", "sandbox", "address", "interface"]), VALUE) | VALUE,
    max_size=3,
)


def addresses(*texts: str) -> tuple[Any, ...]:
    """Returns addresses with prefixes."""
    return tuple(ip_interface(text) for text in texts)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_result_survives(version: str) -> None:
    """Unknown keys, floats, big integers, index 0, nulls and the order of keys are passed on, in the caller's version."""
    echoed = call(config(cniVersion=version, prevResult=RESULT)).json
    assert repr(echoed) == repr({**RESULT, "cniVersion": version})


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4), st.sampled_from(VERSIONS))
def test_every_result_survives(prev_result: dict[str, Any], version: str) -> None:
    """Any prevResult is passed on unchanged except for its cniVersion."""
    echoed = call(config(cniVersion=version, prevResult=prev_result)).json
    assert echoed.pop("cniVersion") == version
    assert repr(echoed) == repr({key: value for key, value in prev_result.items() if key != "cniVersion"})


def test_numbers_come_back_as_they_were_written() -> None:
    """Numbers keep their form: 1.0 does not become 1, and integers beyond 64 bits keep all digits."""
    numbers = b"[1.0,1,-0.0,12345678901234567890123456789,0.1]"
    answer = call(b'{"cniVersion":"1.1.0","name":"n","prevResult":{"x":' + numbers + b"}}")
    assert answer.stdout == b'{"cniVersion":"1.1.0","x":' + numbers + b"}\n"


def test_a_result_without_a_version_gets_one() -> None:
    """A result without a cniVersion gets that of the call."""
    assert call(config(prevResult={})).json == {"cniVersion": "1.1.0"}


@pytest.mark.parametrize(
    ("prev_result", "pod_addresses", "pod_end", "host_end"),
    [
        (BRIDGE, ("10.42.0.7/24", "fd42::7/64"), "eth0", "veth3243"),
        (BANDWIDTH, ("10.42.0.7/24", "fd42::7/64"), "eth0", "veth3243"),
        (CILIUM, ("10.0.1.5/32",), "eth0", "lxc4f1"),
        (CALICO, ("192.168.3.4/32",), None, "cali1a2b"),
        (CALICO_WITH_INDEX, ("192.168.3.4/32",), None, "cali1a2b"),
        (MACVLAN_0_3_1, ("10.9.0.2/16",), "eth0", None),
        ({}, (), None, None),
        ({"interfaces": None, "ips": None}, (), None, None),
    ],
)
def test_what_a_plugin_did_is_read(
    prev_result: dict[str, Any], pod_addresses: tuple[str, ...], pod_end: str | None, host_end: str | None
) -> None:
    """The pod's addresses and both ends of its veth are found in the results of common plugins."""
    assert result.pod_addresses(prev_result) == addresses(*pod_addresses)
    there = result.pod_interface(prev_result, "eth0"), result.host_interface(prev_result)
    assert tuple(interface and interface.name for interface in there) == (pod_end, host_end)


def test_the_interface_that_was_asked_for_is_preferred() -> None:
    """If a pod has several interfaces, the one that CNI_IFNAME names is used."""
    both = [{"name": "eth0", "sandbox": "/x"}, {"name": "net1", "sandbox": "/x"}]
    interface = result.pod_interface({"interfaces": both}, "net1")
    assert interface == result.Interface("net1", "", "/x")


def test_an_address_of_the_host_is_not_the_pods() -> None:
    """The address of a bridge in a result is not an address of the pod."""
    ips = [{"address": "10.42.0.1/24", "interface": 0}, *BRIDGE["ips"]]
    assert result.pod_addresses({**BRIDGE, "ips": ips}) == addresses("10.42.0.7/24", "fd42::7/64")


@pytest.mark.parametrize(
    ("prev_result", "where"),
    [
        ({"ips": 7}, "ips"),
        ({"ips": {"address": "10.0.0.1/8"}}, "ips"),
        ({"ips": ["10.0.0.1/8"]}, "ips[0]"),
        ({"ips": [{}]}, "ips[0].address"),
        ({"ips": [{"address": 1}]}, "ips[0].address"),
        ({"ips": [{"address": "10.0.0.1/33"}]}, "ips[0].address"),
        ({"ips": [{"address": "\x1b[31m"}]}, "ips[0].address"),
        ({"ips": [{"address": "10.0.0.1/8", "interface": 0}]}, "ips[0].interface"),
        ({**BRIDGE, "ips": [{"address": "10.0.0.1/8", "interface": -1}]}, "ips[0].interface"),
        ({**BRIDGE, "ips": [{"address": "10.0.0.1/8", "interface": 1.0}]}, "ips[0].interface"),
        ({**BRIDGE, "ips": [{"address": "10.0.0.1/8", "interface": True}]}, "ips[0].interface"),
        ({"interfaces": [1]}, "interfaces[0]"),
        ({"interfaces": [{"name": 1}]}, "interfaces[0].name"),
        ({"interfaces": [{"name": "eth0", "sandbox": []}]}, "interfaces[0].sandbox"),
    ],
)
def test_a_result_that_makes_no_sense_is_error_7(prev_result: dict[str, Any], where: str) -> None:
    """An invalid prevResult is error 7. The error names the place and has no control characters."""
    with pytest.raises(errors.InvalidConfiguration) as raised:
        result.pod_addresses(prev_result)
    assert raised.value.code == 7
    assert f": {where}: " in str(raised.value)
    assert str(raised.value).isprintable()


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["ips", "interfaces"]), ROWS | VALUE))
def test_reading_never_fails_otherwise(prev_result: dict[str, Any]) -> None:
    """Reading any prevResult succeeds or raises InvalidConfiguration."""
    for read in (result.pod_addresses, result.host_interface, lambda it: result.pod_interface(it, "eth0")):
        with contextlib.suppress(errors.InvalidConfiguration):
            read(prev_result)
