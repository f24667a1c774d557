"""The numbers of a hostname and the keys retained for them: which pod has them, and which pod gets them next."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tailscale_cni import linux
from tailscale_cni.identity import handover
from tailscale_cni.state import files, identities
from tailscale_cni.state.attachments import Attachment, Attachments
from tailscale_cni.state.hostnames import Hostname
from tailscale_cni.state.identities import Identity
from tailscale_cni.state.releases import Releases

SERIAL = count()


class Host:
    """A host's state, and what ADD and DEL write there for a pod's hostname and keys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Attachments(str(root))
        for name in ("attachments", "identities", "names"):
            files.make_directory(f"{root}/{name}")

    def add(self, name: str = "web", *, age: float = 0, **more: Any) -> Attachment:
        """Add a pod that is ``age`` seconds old, and register its node. Returns its attachment."""
        serial = next(SERIAL)
        base = {
            "minter": "headscale",
            "network": "net",
            "ifname": "eth0",
            "netns": "/n",
            "run_dir": f"{self.root}/run",
        }
        attachment = Attachment(
            container_id=f"c{serial}",
            state_dir=str(self.root),
            nonce=f"n{serial}",
            boot_id=linux.boot_id(),
            namespace="default",
            name=name,
            since=handover.now() - int(age * handover.NANOSECONDS),
            **{"handover_window": 600.0, **base, **more},
        )
        with self.store.locked(attachment.container_id, create=True):
            self.store.save(attachment)
            attachment = handover.take_number(attachment)
            known = Identity.load(str(self.root), attachment.key)
            attachment = attachment._replace(uid=known.uid or serial + 1, port=known.port or serial + 1)
            if attachment.identity:
                identities.fit(attachment)
            self.store.save(attachment)
        self.register(attachment)
        return attachment

    def register(self, attachment: Attachment) -> None:
        """Create the state file that a registered node has."""
        Path(attachment.identity_dir).mkdir(exist_ok=True)
        Path(attachment.identity_dir, "tailscaled.state").touch()

    def delete(self, attachment: Attachment) -> None:
        """Delete a pod: hand over its numbers and keys, and remove its record."""
        with self.store.locked(attachment.container_id):
            current = self.now(attachment)
            handover.hand_over(current)
            self.store.forget(current)

    def now(self, attachment: Attachment) -> Attachment:
        """Returns the attachment as it is on the disk."""
        current = self.store.at(attachment.record)
        assert current
        return current

    def settled(self, attachment: Attachment) -> Attachment:
        """Returns the attachment after its supervisor has applied its assignment."""
        current = handover.apply_assignment(attachment)
        assert current
        return current


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without pods."""
    return Host(tmp_path)


def test_the_pods_of_a_name_have_numbers(host: Host) -> None:
    """Each pod of a hostname gets the lowest free number. Other hostnames and namespaces are counted separately."""
    first, second, third = (host.add(age=3600) for _ in range(3))
    assert [a.hostname for a in (first, second, third)] == ["web", "web-1", "web-2"]
    assert host.add("db").hostname == "db"
    host.delete(second)
    assert host.add().hostname == "web-1"


def test_a_hundred_at_once_have_a_hundred_numbers(host: Host) -> None:
    """A hundred concurrent ADDs get a hundred different numbers."""
    with ThreadPoolExecutor(16) as pool:
        added = list(pool.map(lambda _: host.add(), range(100)))
    assert sorted(a.number for a in added) == list(range(100))
    assert len({a.hostname for a in added}) == 100


def test_a_pod_that_wants_a_number_is_nobody_else_meanwhile(host: Host) -> None:
    """A StatefulSet pod whose number is taken does not get keys that are retained for another number."""
    first = host.add("db", ephemeral=False, wanted=0)
    host.delete(first)
    host.add("db", ephemeral=False, wanted=2)
    again = host.add("db", ephemeral=False, wanted=2)
    assert (again.number, again.key != first.key) == (1, True)
    assert host.add("db", ephemeral=False, wanted=0).key == first.key


def test_a_rollout_ends_with_the_name_and_the_keys_that_it_began_with(host: Host) -> None:
    """After ten rolling updates, the pod has the hostname, keys, uid and port of the first pod."""
    first = host.add(ephemeral=False)
    now = first
    for _ in range(10):
        new = host.add(ephemeral=False)
        assert new.hostname == "web-1"
        host.delete(now)
        now = host.settled(new)
        assert (now.hostname, now.key, now.uid, now.port) == ("web", first.key, first.uid, first.port)
        assert now.former == (new.key,)
        with host.store.locked(now.container_id):
            handover.dispose_of_former(host.store, now)
        assert not Path(new.identity_dir).exists()
    host.delete(now)
    assert host.add(ephemeral=False).key == first.key


def test_with_a_static_key_nothing_is_left_behind(host: Host) -> None:
    """With a static auth key, no device can be deleted. Each rolling update uses the same temporary identity."""
    now, interim = host.add(ephemeral=False, minter="static"), set()
    for _ in range(3):
        new = host.add(ephemeral=False, minter="static")
        interim.add(new.key)
        host.delete(now)
        now = host.settled(new)
        assert now.former == ()
    assert len(interim) == 1


def test_an_ephemeral_one_takes_over_the_name_alone(host: Host) -> None:
    """An ephemeral node takes over a hostname but keeps its own keys."""
    old, new = host.add(), host.add()
    host.delete(old)
    now = host.settled(new)
    assert (now.hostname, now.key, now.former) == ("web", new.id, ())


def test_three_replicas_keep_their_three_names(host: Host) -> None:
    """After a rolling update of three replicas, the hostnames and keys are the same, whichever pod ends first."""
    pods = [host.add(ephemeral=False) for _ in range(3)]
    keys = {a.key for a in pods}
    for leaver in (2, 0, 1):
        new = host.add(ephemeral=False)
        host.delete(pods[leaver])
        pods[leaver] = host.settled(new)
    assert sorted(a.hostname for a in pods) == ["web", "web-1", "web-2"]
    assert {a.key for a in pods} == keys


def test_scaling_down_disturbs_nobody(host: Host) -> None:
    """A pod that is older than the handover window keeps its hostname when another pod ends."""
    first, second = host.add(age=3600), host.add(age=3600)
    host.delete(first)
    assert host.settled(second) == second
    assert host.add().hostname == "web"


def test_the_one_that_is_worst_off_has_it(host: Host) -> None:
    """A free number goes to the pod with the highest number in the handover window. No other pod moves."""
    old = host.add(age=3600)
    elder, younger = host.add(age=300), host.add(age=5)
    host.delete(old)
    assert host.settled(younger).number == 0
    assert host.settled(elder).number == 1
    assert Hostname.of(elder).held_by(elder) == [1]


def test_what_an_heir_does_not_need_goes_to_who_waits_for_it(host: Host) -> None:
    """An heir that inherits two numbers gives the second to another young pod. Only the keys retained for the two numbers remain."""
    first, second = (host.add(ephemeral=False, age=3600) for _ in range(2))
    heir = host.add(ephemeral=False)
    host.delete(second)
    host.delete(first)
    late = host.add(ephemeral=False)
    assert late.number == 3
    now, other = host.settled(heir), host.settled(late)
    assert [(a.hostname, a.key) for a in (now, other)] == [("web", first.key), ("web-1", second.key)]
    assert (now.former, other.former) == ((heir.key,), (late.key,))
    for one in now, other:
        with host.store.locked(one.container_id):
            handover.dispose_of_former(host.store, one)
    assert {path.name for path in (host.root / "identities").iterdir() if path.is_dir()} == {
        first.key,
        second.key,
    }


def test_what_nobody_waits_for_is_left_behind(host: Host) -> None:
    """If no other pod needs the second of an heir's two inherited numbers, its keys are dropped, and so are the heir's first keys."""
    first, second = (host.add(ephemeral=False, age=3600) for _ in range(2))
    heir = host.add(ephemeral=False)
    host.delete(second)
    host.delete(first)
    now = host.settled(heir)
    assert (now.hostname, now.key) == ("web", first.key)
    assert set(now.former) == {second.key, heir.key}
    assert host.settled(now) == now
    assert Hostname.of(now).retained(1) == ""


def test_keys_that_moved_along_are_at_one_number(host: Host) -> None:
    """If the ended node never registered, its heir keeps its own keys. They are then retained only for the heir's new number."""
    old = host.add(ephemeral=False, minter="static")
    new = host.add(ephemeral=False, minter="static")
    Path(old.identity_dir, "tailscaled.state").unlink()
    host.delete(old)
    now = host.settled(new)
    assert (now.hostname, now.key, now.former) == ("web", new.key, ())
    assert host.add(ephemeral=False, minter="static").key != new.key


def test_an_heir_that_ends_before_it_moves_hands_on_all_that_it_has(host: Host) -> None:
    """If an heir ends before it moves, the next pod inherits the number and keys that were assigned to it."""
    old = host.add(ephemeral=False, age=3600)
    heir = host.add(ephemeral=False)
    host.delete(old)
    last = host.add(ephemeral=False)
    assert last.number == 2
    host.delete(heir)
    now = host.settled(last)
    assert (now.number, now.key) == (0, old.key)
    assert Hostname.of(now).held_by(now) == [0]


def test_a_pod_with_a_number_of_its_own_has_that_one(host: Host) -> None:
    """A StatefulSet pod gets its own number in any order of starts, also after another pod had the number."""
    second, first = host.add(wanted=1), host.add(wanted=0)
    assert (first.hostname, second.hostname) == ("web", "web-1")
    again = host.add(wanted=1)
    assert again.hostname == "web-2"
    host.delete(first)
    assert host.settled(again).hostname == "web-2"
    host.delete(second)
    assert host.settled(again).hostname == "web-1"


def test_keys_that_are_for_something_else_go_first(host: Host) -> None:
    """If the tags or the control plane change, the next pod keeps hostname, uid and port but gets new keys."""
    old = host.add(ephemeral=False, tags=("tag:a", "tag:b"))
    host.delete(old)
    same = host.add(ephemeral=False, tags=("tag:b", "tag:a"))
    assert identities.is_registered(str(host.root), same.key)
    host.delete(same)
    for change in ({"tags": ("tag:a",)}, {"tags": ("tag:a",), "control_url": "https://other"}):
        keys = Path(old.identity_dir, "tailscaled.state")
        keys.write_text("keys")
        new = host.add(ephemeral=False, **change)
        assert (new.key, new.uid, new.port) == (old.key, old.uid, old.port)
        assert keys.read_text() == ""
        host.delete(new)


def test_what_never_registered_is_not_kept(host: Host) -> None:
    """The identity of a node that never registered is not retained."""
    one = host.add(ephemeral=False)
    Path(one.identity_dir, "tailscaled.state").unlink()
    host.delete(one)
    assert list((host.root / "names").iterdir()) == []


def test_a_number_whose_record_is_gone_is_free(host: Host) -> None:
    """A number is free if its record is missing, for example after a crash or if a user removed the file."""
    one = host.add()
    host.store.forget(one)
    assert host.add().number == 0


IN_CLUSTER = {"ephemeral": False, "kubeconfig": "/kubeconfig"}


def kept_in_cluster(host: Host, **more: Any) -> Attachment:
    """Add a pod whose identity is retained in the cluster."""
    attachment = host.add(**{**IN_CLUSTER, **more})
    Identity.load(str(host.root), attachment.key)._replace(kubeconfig="/kubeconfig").save(str(host.root))
    return attachment


def owed(host: Host) -> dict[str, bool]:
    """Returns the queued releases: by key, whether the identity is to be deleted."""
    return {release.key: release.delete for release in Releases(str(host.root)).all()}


def test_who_leaves_gives_back_what_the_cluster_keeps(host: Host) -> None:
    """A pod's end queues the release of its identity in the cluster, but not of an identity that only the host has."""
    here, there = host.add(ephemeral=False), kept_in_cluster(host)
    host.delete(here)
    assert owed(host) == {}
    host.delete(there)
    assert owed(host) == {there.key: False}


def test_what_is_another_hosts_by_now_is_not_given_back(host: Host) -> None:
    """An identity that was lost to another host is not released."""
    lost = kept_in_cluster(host)
    host.store.save(lost._replace(lost=True))
    host.delete(lost)
    assert owed(host) == {}


def test_an_heir_has_the_clusters_identity_and_gives_back_its_own(host: Host) -> None:
    """An heir takes over the cluster's identity. Its own is deleted, or released with a static auth key for the next update."""
    for minter, deleted in (("headscale", True), ("static", False)):
        old, new = (kept_in_cluster(host, name=minter, minter=minter) for _ in range(2))
        host.delete(old)
        assert owed(host) == {}
        heir = host.settled(new)
        assert (heir.number, heir.identity, heir.kubeconfig) == (0, old.identity, "/kubeconfig")
        handover.dispose_of_former(host.store, heir)
        assert owed(host) == {new.identity: deleted}
        assert Path(new.identity_dir).exists() is not deleted  # until it is released
        Releases(str(host.root)).done(new.identity)


def test_the_clusters_identity_of_one_number_is_never_anothers(host: Host) -> None:
    """If the ended pod has no keys for its heir, the heir keeps its number: one key in two Secrets could be leased twice."""
    old, new = host.add(ephemeral=True), kept_in_cluster(host)
    host.delete(old)
    assert (host.settled(new).number, host.settled(new).identity) == (1, new.identity)


def test_an_ephemeral_heir_has_the_number_and_not_the_identity(host: Host) -> None:
    """An ephemeral heir takes over only the number, and the identity is released."""
    old, new = kept_in_cluster(host), host.add()
    host.delete(old)
    assert host.settled(new).number == 0
    assert owed(host) == {old.identity: False}


def test_a_pod_that_ends_before_it_has_moved_gives_back_both(host: Host) -> None:
    """If a pod ends before it moves to a better number, both its identities are released."""
    one, name = kept_in_cluster(host, handover_window=0.0), Hostname(host.store, "default", "web")
    better = Identity("better", 77, 77, kubeconfig="/kubeconfig")
    better.save(str(host.root))
    with name.locked():
        name.retain(5, "better")
        name.give(5, one)
    host.delete(one)
    assert owed(host) == {one.identity: False, "better": False}


def test_where_the_disk_has_to_do_it_has_keys_of_its_own(host: Host) -> None:
    """A pod without a lease does not use an identity that is queued for release."""
    old = kept_in_cluster(host)
    host.delete(old)
    new = host.add(ephemeral=False)
    assert new.number == 0
    assert new.identity != old.identity


def test_a_stopgap_ends_with_its_pod(host: Host) -> None:
    """If a pod used another number because its own was taken, that identity is deleted with it. With a static auth key it is released."""
    for minter, deleted in (("headscale", True), ("static", False)):
        one = kept_in_cluster(host, name=minter, minter=minter)
        host.store.save(one._replace(wanted=2))
        host.delete(one)
        assert owed(host) == {one.identity: deleted}
        Releases(str(host.root)).done(one.identity)
