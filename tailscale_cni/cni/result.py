"""Read a ``prevResult``, and echo it without losing anything.

All result versions since 0.3.0 are supported. Before 1.0.0, an entry of ``ips`` also has a ``version``, which is ignored.
SPEC section 5, "Result Types".
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tailscale_cni import errors

from . import document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .request import Request

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class Interface(NamedTuple):
    """An entry of ``interfaces``. ``sandbox`` is empty for an interface of the host."""

    name: str
    mac: str
    sandbox: str


class AssignedIP(NamedTuple):
    """An entry of ``ips``: an address with its prefix length, and the index of its interface or None."""

    address: Address
    interface: int | None


def echo(request: Request) -> dict[str, Any]:
    """The result of a plugin that adds nothing: ``prevResult`` with all keys and values in their order.

    Only ``cniVersion`` is set to the caller's. Raises MissingPrevResult.
    """
    if request.prev_result is None:
        raise errors.MissingPrevResult
    if "cniVersion" in request.prev_result:
        return {**request.prev_result, "cniVersion": request.version}
    return {"cniVersion": request.version, **request.prev_result}


def interfaces(prev_result: Mapping[str, Any]) -> tuple[Interface, ...]:
    """The entries of ``interfaces``, in order. Raises InvalidConfiguration."""
    return tuple(
        Interface(*(_text(row, key, f"interfaces[{index}]") for key in ("name", "mac", "sandbox")))
        for index, row in enumerate(_rows(prev_result, "interfaces"))
    )


def ips(prev_result: Mapping[str, Any]) -> tuple[AssignedIP, ...]:
    """The entries of ``ips``, in order. Raises InvalidConfiguration."""
    count = len(_rows(prev_result, "interfaces"))
    return tuple(
        _assigned_ip(row, f"ips[{index}]", count) for index, row in enumerate(_rows(prev_result, "ips"))
    )


def pod_addresses(prev_result: Mapping[str, Any]) -> tuple[Address, ...]:
    """The pod's own addresses: those of interfaces in the sandbox, and those without an interface. If there are none, all addresses.

    Calico lists only the host's end of the veth pair, and some plugins list no interface. Raises InvalidConfiguration.
    """
    there = interfaces(prev_result)
    every = ips(prev_result)
    inside = tuple(ip.address for ip in every if ip.interface is None or there[ip.interface].sandbox)
    return inside or tuple(ip.address for ip in every)


def pod_interface(prev_result: Mapping[str, Any], ifname: str) -> Interface | None:
    """The pod's interface: the sandbox interface ``ifname``, else the first sandbox interface, else None. Raises InvalidConfiguration."""
    inside = [interface for interface in interfaces(prev_result) if interface.sandbox]
    return next(
        (interface for interface in inside if interface.name == ifname), inside[0] if inside else None
    )


def host_interface(prev_result: Mapping[str, Any]) -> Interface | None:
    """The host's end of the pod's veth pair: the last host interface before the first sandbox interface. None if there is none.

    bridge lists the bridge, the host's end and the pod's end; ptp, Cilium and Calico list the host's end first; chained plugins append.
    """
    last = None
    for interface in interfaces(prev_result):
        if interface.sandbox:
            break
        last = interface
    return last


def _assigned_ip(row: Mapping[str, Any], where: str, count: int) -> AssignedIP:
    text = _text(row, "address", where)
    index = row.get("interface")
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        _invalid(f"{where}.address", f"{errors.show(text)} is not an address")
    if index is not None and (type(index) is not int or not 0 <= index < count):
        _invalid(f"{where}.interface", "it is not the index of an interface")
    return AssignedIP(address, index)


def _rows(prev_result: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects in the list at ``key``. An absent list and null (Go's nil slice) are empty. Raises InvalidConfiguration."""
    rows = prev_result.get(key)
    if rows is None:
        return []
    if not isinstance(rows, list):
        _invalid(key, f"it is {document.kind(rows)}, not a list")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            _invalid(f"{key}[{index}]", f"it is {document.kind(row)}, not an object")
    return rows


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        _invalid(f"{where}.{key}", f"it is {document.kind(value)}, not a string")
    return value


def _invalid(key: str, reason: str) -> NoReturn:
    raise errors.InvalidConfiguration(
        where="prevResult",
        key=key,
        reason=reason,
        expected="The plugin before this one in the list wrote it.",
    ) from None
