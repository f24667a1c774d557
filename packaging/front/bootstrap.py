"""From the fast path into the archive: find the site-packages of this build, and run what is in them.

`fastpath.py` runs this text in its own place: `data` is what it has read of standard input, `state_dir` the conflist entry's
or None, and the arguments are this text, the artefact's path, and the command line. The unpacked site-packages are used if they are there,
whole and nobody else's; else they are unpacked into a stateDir that exists; else they are imported from the archive as it
is, which takes longer and writes nothing. Whatever fails here is an answer in CNI's words and no traceback.

The build removes comments and docstrings, and refuses single quotes.
"""

import gc
import os
import stat
import sys
from collections.abc import Callable  # left out by the build

PYTHONS = "@PYTHONS@"

if sys.version_info < (3, 10):
    # The same command line for the next one that launcher.sh would have tried. Up to here the syntax is Python 3.6's.
    with open("/proc/self/cmdline", "rb") as file:
        line = file.read().split(b"\0")[1:-1]
    pythons = PYTHONS.split()
    for python in pythons[pythons.index(sys.executable) + 1 :] if sys.executable in pythons else pythons:
        if os.access(python, os.X_OK):
            os.execv(python, [python.encode(), *line])
    if "CNI_COMMAND" in os.environ:
        import json

        print(json.dumps({"cniVersion": "1.0.0", "code": 50, "msg": "there is no Python 3.10 or newer"}))
    sys.exit("tailscale-cni: there is no Python 3.10 or newer")

data: bytes
state_dir: str | None

BUILD_ID = "@BUILD_ID@"
STATE_DIR = "/var/lib/tailscale-cni"
FOREIGN = ("PYTHON", "SHIV_", "TS_", "TSNET_", "LD_")


def main() -> int:
    """Run the command line or the CNI call, return its exit status."""
    gc.disable()  # a tenth of an ADD, for what is gone at its end
    file = os.path.abspath(sys.argv[2])
    sys.argv = [file, *sys.argv[3:]]
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    state = state_dir or option("--state-dir") or STATE_DIR
    site = unpacked(state) or unpack(file, state)
    try:
        call = enter(file, state, site)
    except Exception:
        if not site:
            raise
        os.unlink(f"{os.path.dirname(site)}/complete")  # parts of it are gone
        leave()
        call = enter(file, state, unpack(file, state))
    return call(data)


def enter(file: str, state: str, site: str | None) -> "Callable[[bytes], int]":
    """What the call is for, imported from the site-packages, or from the archive as it is."""
    sys.path.insert(0, site or file + "/site-packages")
    from tailscale_cni import __main__
    from tailscale_cni.build import artefact

    artefact.set_running(file, BUILD_ID, state, site)
    return __main__.choose()


def leave() -> None:
    """Forget what was entered last."""
    sys.path.pop(0)
    for name in [name for name in sys.modules if name.startswith("tailscale_cni")]:
        del sys.modules[name]


def option(name: str) -> str | None:
    """The value of an option of the command line, which nothing has parsed yet."""
    for index, argument in enumerate(sys.argv):
        if argument == name and index + 1 < len(sys.argv):
            return sys.argv[index + 1]
        if argument.startswith(name + "="):
            return argument[len(name) + 1 :]
    return None


def unpacked(state: str) -> str | None:
    """The site-packages in the stateDir, if they are of this build, whole, and root alone can write to them."""
    build = f"{state}/cache/{BUILD_ID}"
    try:
        for path in (state, f"{state}/cache", build):
            status = os.lstat(path)
            if (
                not stat.S_ISDIR(status.st_mode)
                or status.st_uid not in (0, os.geteuid())
                or status.st_mode & 0o022
            ):
                return None
        hold(build)
        os.stat(f"{build}/complete")
    except (OSError, ValueError):
        return None
    return f"{build}/site-packages"


def hold(build: str) -> None:
    """Keep a shared lock on the directory for as long as this process lives: nobody prunes what is in use."""
    import fcntl

    fcntl.flock(os.open(build, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_SH | fcntl.LOCK_NB)


def unpack(file: str, state: str) -> str | None:
    """Unpack the archive into the stateDir, if that is there and takes it; None if not."""
    if not os.path.isdir(state):
        return None
    sys.path.insert(0, file + "/site-packages")
    try:
        from tailscale_cni.build import cache

        cache.unpack(file, BUILD_ID, state)
    except OSError:
        return None
    finally:
        leave()
    return unpacked(state)


def give_up(error: Exception) -> int:
    """Say that not even the beginning worked."""
    import json

    message = f"tailscale-cni cannot start: {type(error).__name__}: {ascii(str(error))[1:-1]}"[:500]
    answer = json.dumps({"cniVersion": "1.0.0", "code": 100, "msg": message})
    for descriptor, text in ((1, answer), (2, message)):
        if descriptor == 2 or "CNI_COMMAND" in os.environ:
            try:
                os.write(descriptor, text.encode() + b"\n")
            except OSError:
                continue
    return 1


def flushed(status: int) -> int:
    """The exit status, once everything is out. What cannot be written must not become a traceback at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2 if stream is sys.stderr else 1)
            status = status or 1
    return status


if __name__ == "__main__":
    try:
        exit_status = main()
    except Exception as error:
        exit_status = give_up(error)
    os._exit(flushed(exit_status))  # Python's own tidying takes as long as what it tidies took to import
