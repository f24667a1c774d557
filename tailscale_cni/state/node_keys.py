"""The node key that a node's state has: of that alone a worker can prove that it is its own.

What a worker says of itself is hostile, and node keys are known to every peer: who says that it is somebody else's device must not have
that renamed, tagged or deleted.
"""

from __future__ import annotations

import json
from binascii import a2b_base64

from ..json_fields import as_dict, as_text
from . import vault_files

PRIME = 2**255 - 19
BASE_POINT = 9


def of(directory: str) -> str:
    """The node key, ``nodekey:…``, of the node whose state is there; empty if it has none."""
    return in_state(vault_files.read(directory).get(vault_files.STATE, b""))


def in_state(content: bytes) -> str:
    """The same, of a state file (tailscale.com/ipn/store: a map of base64, of which a profile is JSON again)."""
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
