"""The bootstrap: find the site-packages of this build, and run the CNI call or the command from them.

`fastpath.py` executes this text in its own namespace. `data` is what it has read from standard input, `state_dir` is the conflist
entry's or None. The arguments are this text, the artefact's path and the command line. If the unpacked site-packages are complete and
only root can write to them, they are used. Otherwise they are unpacked, if the stateDir exists. Otherwise the modules are imported from
the archive, which takes longer and writes nothing. A failure here is answered with a CNI error, not with a traceback.

The build removes comments and docstrings, and rejects single quotes.
"""

import gc
import os
import stat
import sys
from collections.abc import Callable  # left out by the build

PYTHONS = "@PYTHONS@"

if sys.version_info < (3, 10):
    # Start the next interpreter that launcher.sh would have tried. An old Python compiles all of this file, so its syntax is limited.
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
    """Run the CNI call or the command line, and return the exit status."""
    gc.disable()  # collecting takes a tenth of an ADD, and the process ends soon
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
        os.unlink(f"{os.path.dirname(site)}/complete")  # it is incomplete
        leave()
        call = enter(file, state, unpack(file, state))
    return call(data)


def enter(file: str, state: str, site: str | None) -> "Callable[[bytes], int]":
    """Import the package, from the site-packages or from the archive, and return the function that answers this call."""
    sys.path.insert(0, site or file + "/site-packages")
    from tailscale_cni import __main__
    from tailscale_cni.build import artefact

    artefact.set_running(file, BUILD_ID, state, site)
    return __main__.choose()


def leave() -> None:
    """Undo `enter`: remove the package from the path and from the imported modules."""
    sys.path.pop(0)
    for name in [name for name in sys.modules if name.startswith("tailscale_cni")]:
        del sys.modules[name]


def option(name: str) -> str | None:
    """The value of a command-line option, before the command line is parsed; None if it is not given."""
    for index, argument in enumerate(sys.argv):
        if argument == name and index + 1 < len(sys.argv):
            return sys.argv[index + 1]
        if argument.startswith(name + "="):
            return argument[len(name) + 1 :]
    return None


def unpacked(state: str) -> str | None:
    """This build's site-packages in the stateDir; None unless they are complete and only root can write to them."""
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
    """Lock the directory (shared) until this process ends, so that it is not pruned while in use. Raises OSError."""
    import fcntl

    fcntl.flock(os.open(build, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_SH | fcntl.LOCK_NB)


def unpack(file: str, state: str) -> str | None:
    """Unpack the archive into the stateDir and return the site-packages; None if the stateDir does not exist or that fails."""
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
    """Report an error of the bootstrap itself, and return the exit status."""
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
    """Flush the standard streams and return the exit status. A stream that cannot be written must not cause a traceback at exit."""
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
    os._exit(flushed(exit_status))  # Python's cleanup would take as long as the imports
