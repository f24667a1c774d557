"""The example policies of docs/acl.md: each permits the connections that it should, and refuses the others.

Each test has its own tailnet. It first tries all connections without a policy, so that a refusal comes from the policy.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit import traffic
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.netns import Netns
from tests.kit.peer import Peer
from tests.kit.runtime import Pod, Sandbox
from tests.kit.traffic import reaches
from tests.kit.wait import wait_until
from tests.kit.world import World

EXAMPLES = Path(__file__).parents[2] / "examples" / "acl"
ALICE, BOB, MALLORY = "alice@example.com", "bob@example.com", "mallory@example.com"
FRIEND = "carol@elsewhere.org"


class Tailnet:
    """An empty tailnet, to which a test adds hosts and devices."""

    def __init__(self, world: World, root: Path, stack: ExitStack) -> None:
        self.world, self.root, self.stack = world, root, stack
        self.control = stack.enter_context(ControlPlane(world.wire, root / "control"))

    def host(self, tag: str) -> Host:
        """A host whose auth key has the tag ``tag``."""
        host = Host(self.world.wire, self.control, self.root / tag.replace(":", "-"), tags=[tag])
        host.set_key(self.control.mint(tags=[tag]).key)
        return self.stack.enter_context(host)

    def pod(self, host: Host, name: str, *ports: int) -> Server:
        """A pod on ``host`` with a web server on each port."""
        sandbox = host.start(Pod.enrolled(name))
        address = host.addresses(sandbox)[0]
        for port in ports:
            log = self.root / f"{name}-{port}"
            self.stack.enter_context(traffic.web_server(sandbox.netns, log, port=port, text=name))
        return Server(sandbox, address)

    def device(self, name: str, **key: Any) -> Peer:
        """A device such as a phone or a laptop: a real tailscaled. ``key`` has the properties of its auth key."""
        netns = self.stack.enter_context(Netns(name))
        self.world.wire.plug(netns)
        given = self.control.mint(ephemeral=False, **({"tags": []} | key))
        return self.stack.enter_context(Peer(self.control, netns, self.root / name, name, key=given))


class Server:
    """A pod with its tailnet address."""

    def __init__(self, sandbox: Sandbox, address: str) -> None:
        self.sandbox, self.netns, self.address = sandbox, sandbox.netns, address

    def url(self, port: int) -> str:
        """The URL of the pod's page on ``port``."""
        return f"http://{self.address}:{port}/"


@pytest.fixture
def tailnet(world: World) -> Iterator[Tailnet]:
    """A tailnet with a policy that no other test uses."""
    with ExitStack() as stack:
        yield Tailnet(world, world.root / f"acl{os.urandom(4).hex()}", stack)


Way = tuple[Netns, str]


def assert_only(tailnet: Tailnet, example: str, possible: list[Way], impossible: list[Way]) -> None:
    """Without the policy every connection works. With it only the possible ones work. After it every connection works again."""
    for netns, url in possible + impossible:
        wait_until(lambda netns=netns, url=url: reaches(netns, url), what=f"{url} without a policy")  # type: ignore[misc]
    with tailnet.control.policy(EXAMPLES / example):
        for netns, url in impossible:
            wait_until(lambda netns=netns, url=url: not reaches(netns, url), what=f"the end of {url}")  # type: ignore[misc]
        assert [url for netns, url in possible if not reaches(netns, url, seconds=10)] == []
        assert [url for netns, url in impossible if reaches(netns, url)] == []
    for netns, url in impossible:
        wait_until(lambda netns=netns, url=url: reaches(netns, url), what=f"{url} without a policy again")  # type: ignore[misc]


def test_media_server(tailnet: Tailnet) -> None:
    """Alice's phone opens Plex by name and nothing else. Plex opens its database. A stranger opens nothing."""
    plex = tailnet.pod(tailnet.host("tag:media"), "plex", 32400, 8080)
    postgres = tailnet.pod(tailnet.host("tag:database"), "postgres", 5432)
    phone, stranger = tailnet.device("phone", user=ALICE), tailnet.device("stranger", user=MALLORY)
    assert_only(
        tailnet,
        "media-server.hujson",
        possible=[(phone.netns, plex.url(32400)), (plex.netns, postgres.url(5432))],
        impossible=[
            (phone.netns, plex.url(8080)),
            (phone.netns, postgres.url(5432)),
            (stranger.netns, plex.url(32400)),
            (postgres.netns, plex.url(32400)),
        ],
    )
    with tailnet.control.policy(EXAMPLES / "media-server.hujson"):
        assert phone.fetch(f"http://plex.{tailnet.control.domain}:32400/").startswith("plex ")


def test_dev_tools(tailnet: Tailnet) -> None:
    """Developers use the tools, the build machine and production use the registry, and only an operator reaches production."""
    gitea = tailnet.pod(tailnet.host("tag:tools"), "gitea", 3000, 22)
    registry = tailnet.pod(tailnet.host("tag:registry"), "registry", 5000)
    shop = tailnet.pod(tailnet.host("tag:prod"), "shop", 443)
    alice, bob = tailnet.device("alice", user=ALICE), tailnet.device("bob", user=BOB)
    builder = tailnet.device("builder", tags=["tag:ci"])
    assert_only(
        tailnet,
        "dev-tools.hujson",
        possible=[
            (bob.netns, gitea.url(3000)),
            (alice.netns, shop.url(443)),
            (builder.netns, registry.url(5000)),
            (shop.netns, registry.url(5000)),
        ],
        impossible=[
            (bob.netns, gitea.url(22)),
            (bob.netns, shop.url(443)),
            (builder.netns, gitea.url(3000)),
            (registry.netns, shop.url(443)),
        ],
    )


def test_game_server(tailnet: Tailnet) -> None:
    """Every user of the tailnet can play, over TCP and UDP. Only one user can open the console."""
    host = tailnet.host("tag:game")
    game = tailnet.pod(host, "minecraft", 25565, 25575)
    other = tailnet.pod(tailnet.host("tag:k8s-pod"), "other", 25565)
    alice, bob = tailnet.device("alice", user=ALICE), tailnet.device("bob", user=BOB)
    assert_only(
        tailnet,
        "game-server.hujson",
        possible=[
            (alice.netns, game.url(25565)),
            (alice.netns, game.url(25575)),
            (bob.netns, game.url(25565)),
        ],
        impossible=[
            (bob.netns, game.url(25575)),
            (bob.netns, other.url(25565)),
            (game.netns, other.url(25565)),
        ],
    )
    with (
        traffic.inbox(game.netns, tailnet.root / "refused", port=2459) as refused,
        traffic.inbox(game.netns, tailnet.root / "taken", port=2456) as taken,
    ):
        traffic.send(bob.netns, game.address, "before", port=2459)
        assert refused.stdout.readline().endswith(b" before\n")
        with tailnet.control.policy(EXAMPLES / "game-server.hujson"):
            wait_until(lambda: not reaches(bob.netns, game.url(25575)), what="the policy")
            traffic.send(bob.netns, game.address, "hello", port=2459)
            traffic.send(bob.netns, game.address, "hello", port=2456)
            assert taken.stdout.readline().endswith(b" hello\n")
            assert select.select([refused.stdout], [], [], 0)[0] == []


def test_a_friend_sees_what_is_shared(tailnet: Tailnet) -> None:
    """A friend sees the shared node by its full name, as a device of its owner, without tags, and reaches only the shared ports.

    The shared node cannot connect to the friend. The share belongs to the node: a pod that replaces an ephemeral one is
    another node and is not shared.
    """
    host, control = tailnet.host("tag:game"), tailnet.control
    game = tailnet.pod(host, "minecraft", 25565, 25575)
    tailnet.pod(host, "other")
    phone = tailnet.device("friend", user=FRIEND, foreign=True)
    assert peers(phone) == {}
    with control.policy(EXAMPLES / "game-server.hujson"):
        node = control.node("minecraft")
        assert node
        control.share(node["id"], FRIEND)
        seen = wait_until(lambda: peers(phone), what="what is shared")
        assert list(seen) == [f"minecraft.{control.domain}."]
        (peer,) = seen.values()
        assert game.address in peer["TailscaleIPs"]
        assert not peer.get("Tags")
        whois = json.loads(phone.tailscale("whois", "--json", game.address))
        assert whois["UserProfile"]["LoginName"] == f"owner@{control.domain}"
        assert wait_until(lambda: reaches(phone.netns, game.url(25565)), what="the game")
        assert phone.fetch(f"http://minecraft.{control.domain}:25565/").startswith("minecraft ")
        assert not reaches(phone.netns, game.url(25575))
        with traffic.web_server(phone.netns, tailnet.root / "friend-page", text="friend"):
            page = f"http://{phone.addresses[0]}/"
            assert reaches(phone.netns, page)
            assert not reaches(game.netns, page)
        host.runtime.delete(game.sandbox)
        wait_until(lambda: not peers(phone), what="the end of what was shared")
        again = tailnet.pod(host, "minecraft")
        assert again.address != game.address
        assert peers(phone) == {}


def peers(device: Peer) -> dict[str, Any]:
    """The devices that a device sees, by MagicDNS name."""
    return {peer["DNSName"]: peer for peer in (device.status().get("Peer") or {}).values()}


def test_a_policy_that_is_not_understood_is_refused(tailnet: Tailnet) -> None:
    """A policy with an unknown field is refused as a whole, because users would rely on a rule that is silently left out."""
    laptop, phone = tailnet.device("laptop", user=ALICE), tailnet.device("phone", user=BOB)
    file = tailnet.root / "policy.hujson"
    file.write_text('{"acls": [], "ssh": []}')
    with pytest.raises(RuntimeError, match="unknown field"), tailnet.control.policy(file):
        pass
    with traffic.web_server(phone.netns, tailnet.root / "page"):
        assert reaches(laptop.netns, f"http://{phone.addresses[0]}/", seconds=10)
        file.write_text('{"acls": []}')
        with tailnet.control.policy(file):
            wait_until(lambda: not reaches(laptop.netns, f"http://{phone.addresses[0]}/"), what="the policy")
