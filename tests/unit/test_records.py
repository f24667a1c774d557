"""Records on the disk with any content: an unreadable record is reported, stays if it is queued, and fails no other pod's call."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailscale_cni import config, errors
from tailscale_cni.install.conflist import entry
from tailscale_cni.install.keep_in_step import keep_in_step
from tailscale_cni.install.record import Installation
from tailscale_cni.node import teardown
from tailscale_cni.state import backoff, files, outbox, records
from tailscale_cni.state.attachments import Attachment, Attachments
from tailscale_cni.state.backoff import Backoff, TooSoon
from tailscale_cni.state.host import host_id
from tailscale_cni.state.identities import Identity
from tailscale_cni.state.namespaces import Known, Namespaces
from tailscale_cni.state.outbox import Deletion, Outbox
from tailscale_cni.state.releases import Release, Releases

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    7,
    2**31,
    10**400,
    1.5,
    math.nan,
    "",
    "x",
    "a\0b",
    "\ud800",
    "../../x",
    [],
    [1],
    ["../x"],
    [[]],
    {},
    {"a": 1},
)
"""Invalid values of fields."""

CONTENTS = (
    b"",
    b"{}",
    b"null",
    b"[]",
    b"0",
    b'"x"',
    b"{",
    b"\0" * 100,
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"{}" + b" " * files.LARGEST,
    b'{"version":2,"of":"a later one"}',
)
"""Invalid contents of records."""

UNKNOWN = {"later": [{"a": None}], "unknown": "1", "x": 2**70}
"""Fields of a newer version."""

DELETION = Deletion("n1", "nodekey:1", "headscale", "/key", "https://c", "me", 60, "pod default/web")


class Host:
    """A host with two pods, the victim and the neighbour, and a record of each kind for both."""

    def __init__(self, root: Path) -> None:
        self.state_dir, self.run_dir = root / "state", root / "run"
        self.victim, self.neighbour = "victim", "neighbour"
        for name in ("", "attachments", "identities", "names"):
            files.make_directory(f"{self.state_dir}/{name}".rstrip("/"), 0o711)
        files.make_directory(str(self.run_dir))
        (self.state_dir / "run").symlink_to(self.run_dir)
        self.lists = root / "net.d"
        self.lists.mkdir()
        (self.lists / "10-primary.conflist").write_text(
            json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]})
        )
        self.install()
        for who in (self.victim, self.neighbour):
            self.write(who)

    def install(self) -> None:
        """Write the record that ``install`` writes."""
        Installation(str(self.lists), "/opt/cni/bin", entry(**self.entry)).save(str(self.state_dir))

    @property
    def entry(self) -> dict[str, Any]:
        """The settings of our conflist entry."""
        return {
            "stateDir": str(self.state_dir),
            "runDir": str(self.run_dir),
            "configFile": str(self.state_dir.parent / "config.yaml"),
        }

    def attachment(self, who: str) -> Attachment:
        """Returns the attachment of a pod."""
        return Attachment(
            network="net",
            container_id=who,
            ifname="eth0",
            netns="/nowhere",
            state_dir=str(self.state_dir),
            run_dir=str(self.run_dir),
            nonce=f"nonce{who}",
            namespace="default",
            name=who,
            identity=who,
            tags=("tag:a",),
            pod_addresses=("10.0.0.1", "fd00::1"),
            cluster_cidrs=("100.64.0.0/16",),
            uid=7,
            port=41641,
        )

    def identity(self, who: str) -> Identity:
        """Returns the identity of a pod."""
        return Identity(
            who, 7, 41641, "https://c", ("tag:a",), "n1", "nodekey:1", "/kubeconfig", "a.b", ("100.64.0.1",)
        )

    def deletion(self, who: str) -> Deletion:
        """Returns the deletion of a pod's node."""
        return DELETION._replace(node_id=who)

    def release(self, who: str) -> Release:
        """Returns the release of a pod's identity."""
        return Release(who, "/kubeconfig", "default", who, delete=True, deletion=self.deletion(who))

    def write(self, who: str) -> None:
        """Write all records of a pod with the functions that its calls use."""
        store = Attachments(str(self.state_dir))
        with store.locked(who, create=True):
            store.save(self.attachment(who))
        self.identity(who).save(str(self.state_dir))
        Outbox(str(self.state_dir)).add(self.deletion(who))
        Releases(str(self.state_dir)).post(self.release(who))
        Namespaces(str(self.state_dir)).renew(who, lambda: {"tailscale.com/enabled": "true"}, wait=True)
        Backoff(str(self.run_dir)).connected(who)
        with contextlib.suppress(TooSoon):  # from the record of the whole host
            Backoff(str(self.run_dir)).begin(who)

    def check_the_neighbour(self) -> None:
        """Asserts that the neighbour's records and calls are unaffected, and that a new pod can begin."""
        state_dir, who = str(self.state_dir), self.neighbour
        store = Attachments(state_dir)
        assert self.attachment(who) in list(store.all())
        assert store.with_id(self.attachment(who).id) == self.attachment(who)
        assert Identity.load(state_dir, who) == self.identity(who)
        assert self.deletion(who) in list(Outbox(state_dir).all())
        assert self.release(who) in list(Releases(state_dir).all())
        assert Namespaces(state_dir).get(who).annotations == {"tailscale.com/enabled": "true"}
        requests = Backoff(str(self.run_dir))
        assert requests._load(files.digest(who.encode(), 8)).failures == 1
        wait = 0.0
        try:
            requests.begin("new")
            requests.connected("new")
        except TooSoon as e:  # from the record of the whole host
            wait = e.seconds
        assert wait <= backoff.UNREACHED.longest
        keep_in_step(config.load_config(self.entry))


def _attachment(host: Host) -> Path:
    store = Attachments(str(host.state_dir))
    with store.locked(host.victim, create=True):  # the last call has removed it
        store.save(host.attachment(host.victim))
    return Path(host.attachment(host.victim).record)


def _identity(host: Host) -> Path:
    return host.state_dir / "identities" / f"{host.victim}.json"


def _deletion(host: Host) -> Path:
    return Path(Outbox(str(host.state_dir))._path(host.deletion(host.victim)))


def _release(host: Host) -> Path:
    return host.state_dir / "releases" / f"{host.victim}.json"


def _namespace(host: Host) -> Path:
    return host.state_dir / "namespaces" / f"{host.victim}.json"


def _backoff(host: Host) -> Path:
    return host.run_dir / "patience" / files.digest(host.victim.encode(), 8)


def _whole_hosts_backoff(host: Host) -> Path:
    Backoff(str(host.run_dir)).unreached("somebody")
    return host.run_dir / "patience" / backoff.HOST


def _installation(host: Host) -> Path:
    return host.state_dir / "install.json"


def _fast_path(host: Host) -> Path:
    keep_in_step(config.load_config(host.entry))
    return host.state_dir / "enroll.json"


class Use(NamedTuple):
    """A kind of record: a function that returns the path of the victim's, and one that makes the calls of its pod."""

    find: Callable[[Host], Path]
    use: Callable[[Host], Any]


def _use_attachment(host: Host) -> None:
    """DEL finds the attachment, whatever its record contains, and removes it."""
    store = Attachments(str(host.state_dir))
    (found,) = store.of_container(host.victim, "eth0")
    expected = host.attachment(host.victim)
    assert (found.record, found.worker_dir) == (expected.record, expected.worker_dir)
    teardown.end(found)
    assert not Path(found.record).parent.exists()


def _use_namespace(host: Host) -> Known:
    """The record is written again when it is needed."""
    store = Namespaces(str(host.state_dir))
    found = store.get(host.victim)
    store.renew(host.victim, lambda: {"tailscale.com/enabled": "false"}, wait=True)
    assert store.get(host.victim).annotations == {"tailscale.com/enabled": "false"}
    return found


def _use_backoff(host: Host) -> None:
    """An auth key for the pod can be requested now or soon."""
    now = Backoff(str(host.run_dir))
    wait = 0.0
    try:
        now.begin(host.victim)
    except TooSoon as e:
        wait = e.seconds
    assert wait <= backoff.KEPT
    now.unanswered(0.0)
    now.answered()
    now.connected(host.victim)


def _use_identity(host: Host) -> Identity:
    """The pod can always begin, if only as a new node."""
    found = Identity.load(str(host.state_dir), host.victim)
    assert found.key == host.victim
    found._replace(uid=8).save(str(host.state_dir))
    again = Identity.load(str(host.state_dir), host.victim)
    assert again._replace(unknown="") == found._replace(uid=8, unknown="")
    return found


def _use_installation(host: Host) -> Installation | None:
    """Callers get UnreadableState, and ``install`` writes the record again."""
    try:
        found = Installation.load(str(host.state_dir))
    except errors.UnreadableState:
        found = None
    host.install()
    assert Installation.load(str(host.state_dir))
    return found


USES = {
    "attachment": Use(_attachment, _use_attachment),
    "identity": Use(_identity, _use_identity),
    "deletion": Use(_deletion, lambda host: next(_of(host.victim, Outbox(str(host.state_dir)).all()), None)),
    "release": Use(_release, lambda host: Releases(str(host.state_dir)).get(host.victim)),
    "namespace": Use(_namespace, _use_namespace),
    "backoff": Use(_backoff, _use_backoff),
    "backoff of the host": Use(_whole_hosts_backoff, _use_backoff),
    "installation": Use(_installation, _use_installation),
    "fast path": Use(_fast_path, _fast_path),
}
STAYS = ("deletion", "release")
"""Kinds of records that no call may remove if they are unreadable."""


def _of(node_id: str, deletions: Iterator[Deletion]) -> Iterator[Deletion]:
    return (deletion for deletion in deletions if deletion.node_id == node_id)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with two pods. fsync is disabled, because the tests write thousands of files."""
    monkeypatch.setattr("tailscale_cni.state.files.os.fsync", lambda _: None)
    # A CNI call that another test made in this process sends the warnings elsewhere.
    monkeypatch.setattr("tailscale_cni.state.records._tell", records._to_stderr)
    return Host(tmp_path)


def _try(host: Host, kind: str, path: Path, content: bytes) -> Any:
    """Replace the content of a record, and make the calls that use it and those of the neighbour. Returns what was read."""
    path.write_bytes(content)
    host.check_the_neighbour()
    if kind in STAYS:
        assert path.read_bytes() == content
    found = USES[kind].use(host)
    if kind in STAYS:
        assert path.read_bytes() == content
    return found


@pytest.mark.parametrize("kind", USES)
def test_a_field_of_another_type(host: Host, kind: str) -> None:
    """An invalid value in any field of any record affects only its own pod."""
    path = USES[kind].find(host)
    document = json.loads(path.read_bytes())
    assert document
    for field in {*document, "version", "unknown", "enroll"}:
        for odd in ODD:
            USES[kind].find(host)
            _try(host, kind, path, json.dumps({**document, field: odd}).encode())


@pytest.mark.parametrize("kind", USES)
def test_a_field_that_is_missing(host: Host, kind: str) -> None:
    """A missing field in any record affects only its own pod."""
    path = USES[kind].find(host)
    document = json.loads(path.read_bytes())
    for field in document:
        USES[kind].find(host)
        _try(host, kind, path, json.dumps({k: v for k, v in document.items() if k != field}).encode())


@pytest.mark.parametrize("kind", USES)
def test_a_file_that_ends_early(host: Host, kind: str) -> None:
    """A truncated record, at any length, or invalid content affects only its own pod."""
    path = USES[kind].find(host)
    content = path.read_bytes()
    for end in range(len(content)):
        USES[kind].find(host)
        if kind == "attachment" and end % 16:  # a full check of every length takes long
            path.write_bytes(content[:end])
            assert host.attachment(host.neighbour) in list(Attachments(str(host.state_dir)).all())
            continue
        found = _try(host, kind, path, content[:end])
        if kind in STAYS:
            assert (found is None) == (end < len(content) - 1)  # the last byte is the newline
    for odd in CONTENTS:
        USES[kind].find(host)
        _try(host, kind, path, odd)


@pytest.mark.parametrize("kind", USES)
def test_something_else_in_its_place(host: Host, kind: str, tmp_path: Path) -> None:
    """A directory, FIFO, socket, device or link in place of a record is neither followed nor waited for."""
    secret = tmp_path / "secret"
    secret.write_text("{}")
    for put in (_directory, os.mkfifo, _socket, _device, _loop, lambda path: path.symlink_to(secret)):
        host.write(host.victim)
        host.install()
        path = USES[kind].find(host)
        path.unlink()
        put(path)
        host.check_the_neighbour()
        if kind in STAYS:
            assert (os.path.lexists(path) and not path.is_file()) or path.is_symlink()
        USES[kind].use(host)
        if kind in STAYS:
            assert os.path.lexists(path)
        host.write(host.victim)
        host.install()
        if path.parent.name != "patience":
            assert path.name == "enroll.json" or (path.is_file() and not path.is_symlink())
        assert secret.read_text() == "{}"


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()


def _socket(path: Path) -> None:
    place = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:  # works for a path of any length
            listener.bind(f"/proc/self/fd/{place}/{path.name}")
    finally:
        os.close(place)


def _device(path: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero has no end


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    "kind", ["attachment", "identity", "deletion", "release", "namespace", "backoff", "installation"]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_later_versions_fields_are_kept(host: Host, kind: str, version: int) -> None:
    """Unknown fields of a newer version are kept when the record is changed."""
    path = USES[kind].find(host)
    document = json.loads(path.read_bytes()) | UNKNOWN
    if version > 1:
        document["version"] = version
    path.write_text(json.dumps(document))
    host.check_the_neighbour()
    changed = _change(host, kind)
    now = json.loads(path.read_bytes())
    if (kind, version) == ("namespace", 2):
        return  # such a record is written again: test_namespaces
    assert {key: now.get(key) for key in UNKNOWN} == UNKNOWN
    assert now.get("version", 1) == version
    assert {key: value for key, value in now.items() if document[key] != value} == changed


def _change(host: Host, kind: str) -> dict[str, Any]:  # noqa: PLR0911 - one return per kind
    """Change a field of the victim's record as a call does. Returns the fields that must differ."""
    state_dir, who = str(host.state_dir), host.victim
    if kind == "attachment":
        store = Attachments(state_dir)
        (found,) = store.of_container(who, "eth0")
        store.save(found._replace(port=5))
        return {"port": 5}
    if kind == "identity":
        Identity.load(state_dir, who)._replace(port=5).save(state_dir)
        return {"port": 5}
    if kind == "deletion":
        (found_one,) = _of(who, Outbox(state_dir).all())
        assert (found_one.node_key, found_one.minter) == (DELETION.node_key, DELETION.minter)
        Outbox(state_dir).add(host.deletion(who)._replace(who="another"))
        return {"who": "another"}
    if kind == "release":
        assert Releases(state_dir).get(who)
        Releases(state_dir).post(host.release(who)._replace(delete=False))
        return {"delete": False}
    if kind == "namespace":
        before = Namespaces(state_dir).get(who)
        Namespaces(state_dir).renew(who, lambda: {"a": "b"}, wait=True)
        now = Namespaces(state_dir).get(who)
        times = {
            name: getattr(now, name)
            for name in ("asked", "until")
            if getattr(now, name) != getattr(before, name)
        }
        return {"annotations": {"a": "b"}, "enroll": "annotated", **times}
    if kind == "backoff":
        requests = Backoff(str(host.run_dir))
        requests._save(
            USES[kind].find(host).name, requests._load(USES[kind].find(host).name)._replace(failures=9)
        )
        return {"failures": 9}
    installed = Installation.load(state_dir)
    assert installed
    installed._replace(bin_dir="/bin").save(state_dir)
    return {"bin_dir": "/bin"}


def test_of_a_later_version_that_cannot_be_used_it_is_said(
    host: Host, capfd: pytest.CaptureFixture[str]
) -> None:
    """The message about an unusable record of a newer version names the file, the missing field and the version."""
    path = USES["deletion"].find(host)
    path.write_text('{"version": 3, "node": "n1"}')
    assert list(_of(host.victim, Outbox(str(host.state_dir)).all())) == []
    said = capfd.readouterr().err
    assert str(path) in said
    assert (
        "node_id is missing; a newer version of tailscale-cni wrote it (format 3, this one knows 1)" in said
    )
    assert path.exists()


def test_what_the_last_version_can_read(host: Host) -> None:
    """Version 0.1.0 skips a queued deletion with a field that it does not know. Therefore only its fields are written."""
    known = {
        "node_id",
        "node_key",
        "who",
        "minter",
        "credential_file",
        "api_url",
        "headscale_user",
        "auth_key_seconds",
    }
    assert set(json.loads(USES["deletion"].find(host).read_text())) == known
    release = json.loads(USES["release"].find(host).read_text())
    assert set(release["farewell"]) == known
    for kind in ("attachment", "installation", "namespace"):
        assert json.loads(USES[kind].find(host).read_text())["version"] == 1


def test_an_identity_that_cannot_be_read_is_set_aside(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    """An unreadable identity is moved aside when its pod starts, but not when it is listed. The message names both paths."""
    path = USES["identity"].find(host)
    path.write_text("{")
    with pytest.raises(errors.UnreadableState):
        Identity.read(str(host.state_dir), host.victim)
    assert path.exists()
    assert Identity.load(str(host.state_dir), host.victim) == Identity(host.victim)
    assert not path.exists()
    aside = host.state_dir / "unreadable" / f"identities-{host.victim}.json"
    assert aside.read_text() == "{"
    said = capfd.readouterr().err
    assert str(path) in said and str(aside) in said


@pytest.mark.parametrize("content", [b"", b"x\n", b"\xff" * 32, b"0" * 2**21])
def test_a_hosts_id_is_one(tmp_path: Path, content: bytes) -> None:
    """An invalid host ID is replaced. An empty one would look like no host to the cluster."""
    files.make_directory(str(tmp_path / "state"))
    (tmp_path / "state" / "host").write_bytes(content)
    made = host_id(str(tmp_path / "state"))
    assert len(bytes.fromhex(made)) == 16
    assert host_id(str(tmp_path / "state")) == made
    assert (tmp_path / "state" / "unreadable" / "host").read_bytes() == content


# --- every record, with every value ----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMBER = st.integers(-(2**63), 2**64 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SPECIAL: dict[tuple[type, str], st.SearchStrategy[Any]] = {
    (Installation, "entry"): st.dictionaries(TEXT, JSON, max_size=3),
    (Known, "annotations"): st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
    (Release, "deletion"): st.none(),
}
PARSERS = {"entry": lambda value: value, "annotations": lambda value: value}
RECORDS: tuple[Any, ...] = (Attachment, Identity, Installation, Deletion, Release, Known, backoff.Entry)


def _values(cls: Any, field: str) -> st.SearchStrategy[Any]:
    plain: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: NUMBER,
        float: st.floats(-1e18, 1e18),
        tuple: st.lists(TEXT, max_size=3).map(tuple),
        str: TEXT,
        type(None): st.none() | NUMBER,
    }
    if (cls, field) in SPECIAL:
        return SPECIAL[cls, field]
    special = {"version": st.integers(1, 2**63), "unknown": st.just("")}
    return special[field] if field in special else plain[type(cls._field_defaults.get(field, ""))]


@st.composite
def _records(draw: st.DrawFn) -> Any:
    cls = draw(st.sampled_from(RECORDS))
    return cls(**{field: draw(_values(cls, field)) for field in cls._fields})


@given(_records(), st.dictionaries(TEXT, JSON, max_size=4))
def test_what_is_written_is_read(record: Any, more: dict[str, Any]) -> None:
    """A record that is written and read again has the same values and types. Unknown fields are kept."""
    cls = type(record)
    assert records.decode(cls, json.loads(records.encode(record)), parsers=PARSERS) == record
    later = {key: value for key, value in more.items() if key not in cls._fields or key == "unknown"}
    document = {**json.loads(records.encode(record)), **later}
    found = records.decode(cls, document, parsers=PARSERS)
    assert found._replace(unknown="") == record
    assert json.loads(records.encode(found)) == document


@given(_records(), st.data())
def test_any_document_is_a_record_or_a_reason(record: Any, data: st.DataObject) -> None:
    """Decoding any document gives a record or raises ValueError. A lenient record has valid types and loses no value."""
    cls = type(record)
    document = json.loads(records.encode(record))
    document |= data.draw(st.dictionaries(st.sampled_from(sorted(document)) | TEXT, JSON, max_size=4))
    parsers = {**PARSERS, "deletion": lambda _: None}
    for lenient in (False, True):
        try:
            found = records.decode(cls, document, parsers=parsers, lenient=lenient)
        except ValueError:
            continue
        for field, value in zip(cls._fields, found, strict=True):
            default = cls._field_defaults.get(field, "")
            if (cls, field) not in SPECIAL and default is not None:
                assert type(value) is type(default)
        written = json.loads(records.encode(found))
        lost = {key for key in document if key != "version" and written.get(key) != document[key]}
        assert lost <= {field for cls_, field in SPECIAL if cls_ is cls}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON)
def test_no_document_is_told_to_a_control_plane_by_guess(document: Any) -> None:
    """A deletion without a node ID, a node key or an API is rejected."""
    for odd in (
        document,
        {**DELETION.document(), "minter": document},
        {**DELETION.document(), "node_key": document},
    ):
        try:
            found = outbox.decode(odd)
        except ValueError:
            continue
        assert found.node_id and found.node_key and found.minter in outbox.APIS
