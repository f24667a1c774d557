"""The node key in a node's state: the proof that a worker is the device that it claims to be.

Workers are not trusted, and every peer knows a device's public node key. A worker that claims to be another device must not have that
device renamed, tagged or deleted. So the worker's state must have the private half of the node key.
"""

from __future__ import annotations

import json
from binascii import a2b_base64

from ..json_fields import as_dict, as_text
from . import node_files

PRIME = 2**255 - 19
BASE_POINT = 9


def of(directory: str) -> str:
    """The node key, ``nodekey:…``, of the node whose state is in a directory; empty if there is none."""
    return in_state(node_files.read(directory).get(node_files.STATE, b""))


def in_state(content: bytes) -> str:
    """The node key in the content of a state file (tailscale.com/ipn/store: a map of base64; a profile is JSON again)."""
    try:
        entries = as_dict(json.loads(content))
        profile = a2b_base64(as_text(entries.get("_current-profile"))).decode("ascii")
        prefs = as_dict(json.loads(a2b_base64(entries[profile])))
        secret = as_text(as_dict(prefs.get("Config")).get("PrivateNodeKey"))  # tailscale.com/types/persist
        return f"nodekey:{public(bytes.fromhex(secret.removeprefix('privkey:'))).hex()}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def public(secret: bytes) -> bytes:
    """The public key of a private one: X25519 with the base point, RFC 7748, section 5. Raises ValueError."""
    if len(secret) != 32:
        raise ValueError("no key")
    k = int.from_bytes(secret, "little") & ~7 & (2**255 - 1) | 2**254
    x2, z2, x3, z3, swapped = 1, 0, BASE_POINT, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swapped ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swapped = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % PRIME, b * b % PRIME, d * a % PRIME, c * b % PRIME
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % PRIME, BASE_POINT * (da - cb) ** 2 % PRIME
        x2, z2 = aa * bb % PRIME, e * (aa + 121665 * e) % PRIME
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, PRIME - 2, PRIME) % PRIME).to_bytes(32, "little")
