"""Build the artefact: one executable file, whose bytes depend only on the sources.

    launcher.sh    finds an interpreter and hands it fastpath.py and bootstrap.py (packaging/front/)
    zip            shiv's archive: _bootstrap/, environment.json, site-packages/; with our own __main__.py

It contains only pure Python and static programs, so that one file works with every supported CPython.
"""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
import zipfile
from pathlib import Path

from builds.cache import build_once, digest
from builds.environment import PACKAGING, pip_install, venv
from builds.go import machine_goarch, workers

ROOT = PACKAGING.parent
FRONT = PACKAGING / "front"
RUNTIME_LOCK = PACKAGING / "runtime.lock"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time stamp of every file in the zip: the earliest that the format has."""

DIRECTORIES = ("/usr/bin", "/usr/local/bin")
PYTHONS = (
    [f"{directory}/python3" for directory in DIRECTORIES]
    + [f"{directory}/python3.{minor}" for minor in (14, 13, 12, 11, 10) for directory in DIRECTORIES]
    + ["/run/current-system/sw/bin/python3"]
)
"""The interpreters that the launcher tries, in order. PATH is not searched, because the caller controls it."""


def zipapp(goarch: str = machine_goarch()) -> Path:
    """The path of the artefact for an architecture, in the cache. The default is this machine's architecture."""
    build_id = identify(goarch)

    def build(directory: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="tailscale-cni-") as scratch:
            pack(site_packages(Path(scratch, "site-packages"), goarch), build_id, directory)

    return build_once(f"zipapp-{goarch}-{build_id}", build) / "tailscale-cni"


def install(goarch: str | None) -> Path:
    """Copy the artefact to dist/ atomically, and return its path. If `goarch` is given, it is part of the file's name."""
    target = ROOT / "dist" / (f"tailscale-cni-{goarch}" if goarch else "tailscale-cni")
    target.parent.mkdir(exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy(zipapp(goarch or machine_goarch()), unfinished)
    unfinished.rename(target)
    return target


def site_packages(target: Path, goarch: str) -> Path:
    """Fill the new directory `target` with the contents of the artefact: dependencies, our package, and the Go programs."""
    shutil.copytree(dependencies(), target)
    for path in own_sources():
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    programs = target / "tailscale_cni" / "bin"
    programs.mkdir()
    for path in workers(goarch).iterdir():
        shutil.copyfile(path, programs / path.name)
    for path in files(target):
        path.chmod(0o755 if path.parent == programs else 0o644)
    return target


def dependencies() -> Path:
    """The locked dependencies as pure Python, without what an installer leaves behind.

    PyYAML brings compiled parts for one version of Python, and works without them. ``pyroute2/__init__.py`` is emptied: it imports
    the whole library, asyncio included, which takes 140 ms of an ADD that needs 15 ms of it (docs/adr/0009-netlink.md). Its submodules do
    not need it.
    """

    def build(directory: Path) -> None:
        print("installing the dependencies of the artefact", file=sys.stderr)
        pip_install(
            venv(), ["--no-deps", "--no-compile", f"--target={directory}", f"--requirement={RUNTIME_LOCK}"]
        )
        # Requests guesses charsets with charset_normalizer, which JSON does not need; its import takes 10 ms.
        guesser = directory.glob("charset_normalizer*")
        for superfluous in (directory / "bin", *directory.glob("*/tests"), *guesser):
            shutil.rmtree(superfluous, ignore_errors=True)
        for path in list(files(directory)):
            of_installer = path.parent.suffix == ".dist-info" and path.name in (
                "RECORD",
                "INSTALLER",
                "REQUESTED",
                "WHEEL",
            )
            if of_installer or path.suffix in (".so", ".pyc", ".pyi", ".pyx", ".pxd"):
                path.unlink()
        (directory / "pyroute2" / "__init__.py").write_bytes(b"")

    return build_once(
        f"dependencies-{digest([RUNTIME_LOCK.read_bytes(), Path(__file__).read_bytes()])}", build
    )


def files(folder: Path) -> list[Path]:
    """The files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def own_sources() -> list[Path]:
    """The source files of our package, sorted."""
    return sorted((ROOT / "tailscale_cni").rglob("*.py"))


def identify(goarch: str) -> str:
    """The build ID: a digest of all inputs of the artefact."""
    sources = [
        RUNTIME_LOCK,
        PACKAGING / "dev.lock",
        Path(__file__),
        *sorted(FRONT.glob("*.*")),
        *own_sources(),
    ]
    content = (part for path in sources for part in (str(path.relative_to(ROOT)), path.read_bytes()))
    return digest([workers(goarch).name, *content])


def pack(site: Path, build_id: str, out: Path) -> None:
    """Write the artefact `tailscale-cni` into the directory `out`."""
    packed = out / "packed.pyz"
    shiv = ["-m", "shiv", "--site-packages", str(site), "--entry-point", "tailscale_cni.__main__:main"]
    options = ["--compressed", "--reproducible", "--build-id", build_id, "--output-file", str(packed)]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "315532800", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(venv()), *shiv, *options], env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    texts = {"PYTHONS": " ".join(PYTHONS), "VERSION": read_version(), "BUILD_ID": build_id}
    texts |= {name.upper(): embedded(FRONT / f"{name}.py", texts) for name in ("fastpath", "bootstrap")}
    artefact = out / "tailscale-cni"
    with artefact.open("wb") as file:
        file.write(filled((FRONT / "launcher.sh").read_text(encoding="utf-8"), texts).encode())
        own = {"__main__.py": (FRONT / "zip_main.py").read_text(encoding="utf-8")}
        own |= {"fastpath.py": texts["FASTPATH"], "bootstrap.py": texts["BOOTSTRAP"]}
        rewrite(packed, file, own)
    artefact.chmod(0o755)
    packed.unlink()


def read_version() -> str:
    """`__version__` of the package."""
    text = (ROOT / "tailscale_cni" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([0-9.]+)"$', text, re.MULTILINE)
    if not found:
        raise SystemExit("tailscale_cni/__init__.py has no __version__")
    return found[1]


def filled(text: str, values: dict[str, str]) -> str:
    """The text with each @NAME@ replaced by its value."""
    return re.sub("@([A-Z_]+)@", lambda match: values[match[1]], text)


def embedded(source: Path, values: dict[str, str]) -> str:
    """A Python file for single quotes of the shell: placeholders filled, comments and docstrings removed.

    Raises SystemExit if it contains a single quote, or if its syntax tree changes.
    """
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    original = "".join(line for line in lines if not line.endswith("# left out by the build\n"))
    text = filled(without_comments(original), values)
    if "'" in text:
        raise SystemExit(f"{source.name} has a single quote outside of comments")
    if ast.dump(without_docstrings(filled(original, values))) != ast.dump(without_docstrings(text)):
        raise SystemExit(f"{source.name} means something else without its comments")
    return text


def without_comments(source: str) -> str:
    """The source without its comments, docstrings and empty lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, column), (last, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column]
        elif (
            token.type == tokenize.STRING
            and lines[row - 1][:column].strip() == ""
            and token.string.startswith('"""')
        ):
            indent = lines[row - 1][:column]
            lines[row - 1 : last] = [f'{indent}""', *[""] * (last - row)]
    text = "\n".join(line.rstrip() for line in lines if line.strip()) + "\n"
    return re.sub(
        r'^ *""\n', lambda match: "" if keeps_a_body(text, match) else match[0], text, flags=re.MULTILINE
    )


def keeps_a_body(text: str, match: re.Match[str]) -> bool:
    """Whether the block of a docstring has another statement, so that the docstring can be removed."""
    indent = len(match[0]) - 3
    following = text[match.end() :].split("\n", 1)[0]
    return len(following) - len(following.lstrip()) >= indent


def without_docstrings(source: str) -> ast.Module:
    """The syntax tree without docstrings and other string statements."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for body in (
            getattr(node, "body", None),
            getattr(node, "orelse", None),
            getattr(node, "finalbody", None),
        ):
            if isinstance(body, list):
                body[:] = [statement for statement in body if not is_text(statement)]
    return tree


def is_text(statement: object) -> bool:
    """Whether a statement is only a string."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def rewrite(packed: Path, target: io.BufferedWriter, own: dict[str, str]) -> None:
    """Append the zip that shiv made to the target, with our own files added at its top level, reproducibly."""
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(target, "w") as new:
        entries = {entry.filename: (old.read(entry), entry.external_attr >> 16) for entry in old.infolist()}
        environment = json.loads(entries["environment.json"][0])
        entries["environment.json"] = (json.dumps(environment, sort_keys=True).encode(), 0o644)
        entries |= {name: (text.encode(), 0o644) for name, text in own.items()}
        for name, (data, mode) in sorted(entries.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = (0o100755 if mode & 0o100 else 0o100644) << 16
            new.writestr(info, data)
