"""The disposition of an identity that a pod gives up, for every combination of conditions."""

from __future__ import annotations

import itertools

import pytest

from tailscale_cni.identity.disposition import Disposition, Successor, disposition

KEEP, RELEASE, DELETE = Disposition.KEEP, Disposition.RELEASE, Disposition.DELETE
NONE, EPHEMERAL, LASTING = Successor.NONE, Successor.EPHEMERAL, Successor.LASTING

TABLE = {
    # in the cluster, deletable, successor
    (False, False, NONE): KEEP,
    (False, False, EPHEMERAL): KEEP,
    (False, False, LASTING): KEEP,
    (False, True, NONE): DELETE,
    (False, True, EPHEMERAL): KEEP,
    (False, True, LASTING): KEEP,
    (True, False, NONE): RELEASE,
    (True, False, EPHEMERAL): RELEASE,
    (True, False, LASTING): KEEP,
    (True, True, NONE): DELETE,
    (True, True, EPHEMERAL): DELETE,
    (True, True, LASTING): KEEP,
}


def test_the_table_is_whole() -> None:
    """The table has a row for every combination."""
    assert set(TABLE) == set(itertools.product((False, True), (False, True), Successor))


@pytest.mark.parametrize(("given", "what"), TABLE.items())
def test_disposition(given: tuple[bool, bool, Successor], what: Disposition) -> None:
    """The disposition of an identity is as in the table.

    A lasting successor gets the keys. Without one, an identity in the cluster is deleted if possible, and otherwise released. An identity
    of the host alone is deleted if possible and if there is no successor. Otherwise the host keeps it.
    """
    in_cluster, deletable, successor = given
    assert disposition(in_cluster=in_cluster, deletable=deletable, successor=successor) is what
