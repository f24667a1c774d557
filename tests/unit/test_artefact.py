"""The artefact is one reproducible file. It runs on every supported Python and unpacks safely."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builds import zipapp
from builds.artefact import FRONT, filled, identify, pack, site_packages
from builds.go import machine_goarch

from tailscale_cni import errors
from tailscale_cni.build import artefact, binaries, cache
from tailscale_cni.build.interpreter import fit_to_python
from tests.kit.wait import wait_until

NOBODY = 65534
ELF_MACHINE = {"amd64": 62, "arm64": 183}
"""e_machine in the ELF header: EM_X86_64 and EM_AARCH64 in elf.h."""


@pytest.fixture(scope="module")
def built() -> Path:
    """The path of the built artefact."""
    return zipapp()


@pytest.fixture
def state_dir(scratch: Path) -> Path:
    """A stateDir as ``install`` creates it. Other users can traverse its parent directories."""
    path = Path(tempfile.mkdtemp(dir=scratch))
    path.chmod(0o711)
    return path


def run(
    *command: str | Path, environ: dict[str, str] | None = None, stdin: bytes = b"", **options: Any
) -> str:
    """Returns what a command prints. Fails if the exit status is not 0 or standard error has a traceback."""
    done = subprocess.run(
        command, input=stdin, env=environ or {}, capture_output=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return str(done.stdout, encoding="utf-8")


def ask_version(file: Path, state_dir: Path) -> str:
    """Make a CNI call with a stateDir that the fast path does not answer, so that the archive answers it."""
    entry = {"cniVersion": "1.0.0", "name": "n", "type": "tailscale-cni", "stateDir": str(state_dir)}
    return run(file, environ={"CNI_COMMAND": "VERSION"}, stdin=json.dumps(entry).encode())


def unpacked(state_dir: Path) -> Path:
    """Returns the directory of the only build in the stateDir's cache."""
    (build,) = (state_dir / "cache").iterdir()
    return build


@pytest.mark.long
def test_same_bytes_again(tmp_path: Path) -> None:
    """Builds with another directory, umask and time zone have the same bytes."""
    made = []
    for name, umask in (("one", 0o022), ("two and more", 0o077)):
        out = tmp_path / name
        out.mkdir()
        before = os.umask(umask)
        try:
            with pytest.MonkeyPatch.context() as environ:
                environ.setenv("TZ", "Pacific/Kiritimati" if umask == 0o077 else "UTC")
                environ.setenv("LC_ALL", "C")
                environ.setenv("SHIV_ROOT", str(out))
                site = site_packages(out / "site", machine_goarch())
                pack(site, identify(machine_goarch()), out)
        finally:
            os.umask(before)
        made.append((out / "tailscale-cni").read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("goarch", sorted(ELF_MACHINE))
def test_programs_are_of_its_architecture(goarch: str) -> None:
    """The artefact has a static worker and supervisor for the requested architecture."""
    with zipfile.ZipFile(zipapp(goarch)) as archive:
        for name in ("worker", "supervisor"):
            program = archive.read(f"site-packages/tailscale_cni/bin/{name}")
            assert program[:5] == b"\x7fELF\x02"
            assert int.from_bytes(program[18:20], "little") == ELF_MACHINE[goarch]
            assert b"/ld-linux" not in program[:4096]


def test_nothing_is_compiled_for_one_python(built: Path) -> None:
    """The artefact has no machine code except the Go programs, no bytecode and no paths of the build machine."""
    with zipfile.ZipFile(built) as archive:
        for entry in archive.infolist():
            data = archive.read(entry)
            program = entry.filename.startswith("site-packages/tailscale_cni/bin/")
            assert program or data[:4] != b"\x7fELF"
            assert not entry.filename.endswith((".so", ".pyc", "RECORD", "INSTALLER", "direct_url.json"))
            assert entry.external_attr >> 16 == (0o100755 if program else 0o100644)
            assert os.fsencode(Path.home() / ".cache") not in data
            assert os.fsencode(FRONT.parent.parent) not in data


def test_every_module_imports_on_every_python(built: Path, interpreter: Path, tmp_path: Path) -> None:
    """Each supported Python can import every module of the package and its dependencies from the archive alone."""
    script = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1] + "/site-packages")
import pyroute2, tailscale_cni, yaml
for module in pkgutil.walk_packages(tailscale_cni.__path__, "tailscale_cni."):
    importlib.import_module(module.name)
print(len(yaml.safe_load("[1, a]")))
"""
    assert run(interpreter, "-IS", "-c", script, built, cwd=tmp_path) == "2\n"


def test_runs_on_every_python(built: Path, interpreter: Path, state_dir: Path) -> None:
    """``python3 FILE`` does the same as ``FILE`` on each supported Python, unpacked or not, and prints the version."""
    first = run(interpreter, built, "--version", environ={"HOME": "/nonexistent"})
    assert first.strip().endswith(artefact.version())
    assert run(interpreter, built, "status", "--state-dir", state_dir, "-o", "json") == run(
        built, "status", "--state-dir", state_dir, "-o", "json"
    )
    assert (unpacked(state_dir) / "site-packages" / "tailscale_cni" / "bin" / "worker").is_file()


def test_is_fitted_to_every_python(built: Path, interpreter: Path, state_dir: Path, tmp_path: Path) -> None:
    """An artefact that ``install`` fits to a Python runs on it and gives the same answers. Fitting it again changes nothing."""
    installed = tmp_path / "tailscale-cni"
    installed.write_bytes(fit_to_python(built, str(interpreter)))
    installed.chmod(0o755)
    assert installed.read_bytes().startswith(b"#!%s " % os.fsencode(interpreter))
    assert run(installed, "--version") == run(built, "--version")
    assert ask_version(installed, state_dir) == ask_version(built, state_dir)
    assert run(interpreter, installed, "--version") == run(built, "--version")
    assert fit_to_python(installed, str(interpreter)) == installed.read_bytes()
    assert fit_to_python(installed, None) == built.read_bytes()
    assert fit_to_python(installed, "/" + "x" * 120) == built.read_bytes()


def test_says_that_a_python_is_too_old(built: Path, old_interpreter: Path, tmp_path: Path) -> None:
    """A Python that is too old hands over to a newer one on the host. ``python3 FILE`` names the required version."""
    text = built.read_bytes().split(b"-c '", 1)[1]
    fastpath, bootstrap = (part.decode() for part in text.split(b'\' "$0"', 1)[0].split(b"' '"))
    assert (
        run(old_interpreter, "-IS", "-c", fastpath, bootstrap, built, "--version")
        .strip()
        .endswith(artefact.version())
    )
    installed = tmp_path / "tailscale-cni"
    installed.write_bytes(fit_to_python(built, str(old_interpreter)))
    installed.chmod(0o755)
    assert run(installed, "--version").strip().endswith(artefact.version())
    asked = subprocess.run([old_interpreter, built], env={}, capture_output=True, text=True, check=False)
    assert asked.returncode == 1
    assert asked.stderr.startswith("tailscale-cni needs Python 3.10 or newer")


def test_says_that_there_is_no_python(tmp_path: Path) -> None:
    """On a host without Python, the runtime gets a CNI error."""
    launcher = tmp_path / "tailscale-cni"
    values = {
        "PYTHONS": "/nonexistent/python3 /nonexistent/python4",
        "FASTPATH": "",
        "BOOTSTRAP": "",
        "VERSION": "0",
    }
    launcher.write_text(filled((FRONT / "launcher.sh").read_text(encoding="utf-8"), values), encoding="utf-8")
    done = subprocess.run(
        ["/bin/sh", launcher], env={"CNI_COMMAND": "ADD"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 50
    assert "no Python 3.10" in done.stderr


@pytest.mark.parametrize("way", ["spaces", "link", "relative", "sh", "deleted directory"])
def test_runs_wherever_it_lies(built: Path, tmp_path: Path, way: str) -> None:
    """The artefact runs from a path with spaces and quotes, a link, a relative path, ``sh FILE`` or a deleted working directory."""
    file = tmp_path / 'it\'s a "dir"' / "tailscale-cni"
    file.parent.mkdir()
    shutil.copy(built, file)
    (tmp_path / "link").symlink_to(file)
    gone = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" --version'
    commands: dict[str, list[str | Path]] = {
        "spaces": [file],
        "link": [tmp_path / "link"],
        "relative": [f"./{file.relative_to(tmp_path)}"],
        "sh": ["/bin/sh", file],
        "deleted directory": ["/bin/sh", "-c", gone, file],
    }
    assert (
        run(*commands[way], "--version", cwd=tmp_path, environ={"PATH": os.defpath})
        .strip()
        .endswith(artefact.version())
    )


def test_hostile_environment_changes_nothing(built: Path, state_dir: Path, tmp_path: Path) -> None:
    """PYTHON*, SHIV_*, HOME, PATH and the working directory change neither the code that runs nor where it unpacks."""
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("os", "json", "io", "zipfile", "tailscale_cni", "_bootstrap", "sitecustomize", "yaml"):
        (hostile / f"{name}.py").write_text("print('hostile')\n", encoding="utf-8")
    environ = {
        "CNI_COMMAND": "VERSION",
        "HOME": str(hostile),
        "PATH": "",
        "PYTHONHOME": str(hostile),
        "PYTHONINSPECT": "1",
        "PYTHONPATH": str(hostile),
        "PYTHONVERBOSE": "1",
        "SHIV_CONSOLE_SCRIPT": "hostile",
        "SHIV_ENTRY_POINT": "os:abort",
        "SHIV_FORCE_EXTRACT": "1",
        "SHIV_INTERPRETER": "1",
        "SHIV_PREPEND_PYTHONPATH": str(hostile),
        "SHIV_ROOT": str(hostile / "root"),
    }
    stdin = json.dumps({"cniVersion": "1.0.0", "stateDir": str(state_dir)}).encode()
    for _ in ("unpacks", "is unpacked"):
        assert json.loads(run(built, environ=environ, stdin=stdin, cwd=hostile))["cniVersion"] == "1.0.0"
    assert (unpacked(state_dir) / "complete").is_file()
    assert not (hostile / "root").exists()
    assert not (hostile / ".shiv").exists()


def test_unpacks_only_into_a_state_directory_that_exists(built: Path, tmp_path: Path) -> None:
    """A call or command does not create a missing state directory."""
    missing = tmp_path / "missing"
    ask_version(built, missing)
    run(built, "status", "--state-dir", missing, "-o", "json")
    assert not missing.exists()


def test_unpacks_once_for_all_who_come_at_once(built: Path, state_dir: Path) -> None:
    """Ten concurrent first calls are all answered, and leave one complete build and nothing else."""
    entry = json.dumps({"cniVersion": "1.0.0", "stateDir": str(state_dir)}).encode()
    calls = [
        subprocess.Popen(
            [built],
            env={"CNI_COMMAND": "VERSION"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(10)
    ]
    answers = [call.communicate(entry, timeout=300) for call in calls]
    assert {json.loads(out)["cniVersion"] for out, _ in answers} == {"1.0.0"}
    assert {error for _, error in answers if b"Traceback" in error} == set()
    assert (unpacked(state_dir) / "complete").is_file()


def test_what_is_unpacked_runs_as_any_user(built: Path, state_dir: Path) -> None:
    """A worker's user can execute the unpacked programs even if the runtime's umask is 077. Only the owner can write to the cache."""
    before = os.umask(0o077)
    try:
        ask_version(built, state_dir)
    finally:
        os.umask(before)
    site = unpacked(state_dir) / "site-packages"
    for name in ("worker", "supervisor"):
        program = site / "tailscale_cni" / "bin" / name
        done = subprocess.run(
            [program, "--no-such-flag"],
            user=NOBODY,
            group=NOBODY,
            cwd="/",
            env={},
            capture_output=True,
            check=False,
        )
        assert done.returncode not in (126, 127)
    assert not [path for path in (state_dir / "cache").rglob("*") if path.stat().st_mode & 0o022]


def test_opens_the_cache_that_a_killed_call_left(built: Path, state_dir: Path) -> None:
    """If a call is killed before it lets others traverse the cache, the next call does so. Workers can then execute their program."""
    (state_dir / "cache").mkdir(0o700)
    ask_version(built, state_dir)
    assert stat.S_IMODE((state_dir / "cache").stat().st_mode) == 0o755


def test_replaces_what_a_power_cut_left(built: Path, state_dir: Path) -> None:
    """After a power cut, a build without its ``complete`` file is unpacked again, because its files may be empty."""
    ask_version(built, state_dir)
    build = unpacked(state_dir)
    (build / "complete").unlink()
    for path in build.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    assert "supportedVersions" in ask_version(built, state_dir)
    assert (build / "complete").is_file()
    assert (build / "site-packages" / "tailscale_cni" / "__main__.py").stat().st_size > 0
    assert unpacked(state_dir) == build


def test_replaces_what_is_broken(built: Path, state_dir: Path) -> None:
    """A build with missing files is unpacked again, and the call succeeds."""
    ask_version(built, state_dir)
    shutil.rmtree(unpacked(state_dir) / "site-packages" / "tailscale_cni" / "cni")
    assert "supportedVersions" in ask_version(built, state_dir)
    assert (unpacked(state_dir) / "site-packages" / "tailscale_cni" / "cni" / "dispatch.py").is_file()


def test_sweeps_up_after_a_call_that_was_killed(built: Path, state_dir: Path) -> None:
    """If a call is killed while it unpacks, the next call removes its files."""
    entry = json.dumps({"cniVersion": "1.0.0", "stateDir": str(state_dir)}).encode()
    with subprocess.Popen(
        [built], env={"CNI_COMMAND": "VERSION"}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as victim:
        assert victim.stdin
        victim.stdin.write(entry)
        victim.stdin.close()
        wait_until(lambda: list(state_dir.glob("cache/.*")), 60)
        victim.send_signal(signal.SIGKILL)
    ask_version(built, state_dir)
    assert (unpacked(state_dir) / "complete").is_file()


@pytest.mark.parametrize(
    "trap",
    ["cache is a link", "build is a link", "foreign cache", "writable cache", "foreign build", "a file"],
)
def test_runs_nothing_of_others(built: Path, state_dir: Path, tmp_path: Path, trap: str) -> None:
    """If other users could have written to the cache, nothing is executed from it or unpacked there. The call is still answered."""
    ask_version(built, state_dir)
    build = unpacked(state_dir)
    for path in build.rglob("*.py"):
        path.write_text("import os\nos.write(1, b'hostile')\nos._exit(9)\n", encoding="utf-8")
    for path in build.rglob("__pycache__"):
        shutil.rmtree(path)
    cache, elsewhere = state_dir / "cache", tmp_path / "elsewhere"
    match trap:
        case "cache is a link":
            cache.rename(elsewhere)
            cache.symlink_to(elsewhere)
        case "build is a link":
            build.rename(elsewhere)
            build.symlink_to(elsewhere)
        case "foreign cache":
            os.chown(cache, NOBODY, NOBODY)
        case "writable cache":
            cache.chmod(0o777)
        case "foreign build":
            os.chown(build, NOBODY, NOBODY)
        case "a file":
            shutil.rmtree(cache)
            cache.write_text("", encoding="utf-8")
    assert "supportedVersions" in ask_version(built, state_dir)


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """Mount a tmpfs with these options on a directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tailscale-cni-test", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("options", ["ro", "size=1m,mode=0711"])
def test_runs_from_a_read_only_or_full_disk(built: Path, state_dir: Path, options: str) -> None:
    """If the artefact cannot be unpacked, it runs from the archive and leaves no partial build."""
    with mounted(state_dir, options):
        assert "supportedVersions" in ask_version(built, state_dir)
        assert [path for path in state_dir.rglob("*") if path.name != "cache"] == []


def test_upgrade_leaves_what_is_in_use(built: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``prune`` removes builds of other versions, except those with a running program or a call in progress."""
    ask_version(built, state_dir)
    this = unpacked(state_dir)
    for name in ("running", "calling", "unused"):
        shutil.copytree(this, this.with_name(name))
    program = this.with_name("running") / "program"
    shutil.copy("/bin/sleep", program)
    monkeypatch.setattr(artefact, "_running", artefact.Artefact(str(built), this.name, str(state_dir), None))
    calling = os.open(this.with_name("calling"), os.O_RDONLY)
    fcntl.flock(calling, fcntl.LOCK_SH)
    with subprocess.Popen([program, "600"]) as running:
        assert cache.prune(str(state_dir)) == ["unused"]
        running.kill()
    os.close(calling)
    assert cache.prune(str(state_dir)) == ["calling", "running"]
    assert unpacked(state_dir) == this


def test_unpacks_the_programs_when_they_are_needed(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that runs from the archive unpacks the worker. If it cannot, the error says so."""
    state_dir = tmp_path / "not yet"
    monkeypatch.setattr(artefact, "_running", artefact.Artefact(str(built), "a" * 20, str(state_dir), None))
    assert Path(binaries.worker_binary()).read_bytes()[:4] == b"\x7fELF"
    assert os.access(binaries.supervisor_binary(), os.X_OK)
    assert artefact.executable() == str(built)
    assert artefact.build_id() == "a" * 20
    (state_dir / "cache").chmod(0o777)
    with pytest.raises(errors.InputOutput, match="cannot be unpacked"):
        binaries.worker_binary()


def test_a_checkout_says_that_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a source checkout there is no artefact. The error says how to build it."""
    monkeypatch.setattr(artefact, "_running", None)
    assert artefact.build_id() == "source"
    for missing in (artefact.executable, binaries.worker_binary):
        with pytest.raises(errors.InputOutput, match="make zipapp"):
            missing()
