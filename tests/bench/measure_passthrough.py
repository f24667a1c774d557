"""A call for a pod that is not enrolled costs one start of Python, and next to nothing else.

The floor is `python3 -I -S -c pass`, which every plugin in Python has to start. Additional costs are reading the call, the note of the
host's configuration, the check that the note is up to date, and prevResult. The fast path leaves out Python's cleanup at exit, so the
figure can be below 1. The artefact is as `install` writes it: the kernel starts the interpreter (a shell that searches for one costs 0.11
more), and the fast path's bytecode is beside its text (compiling the text costs 0.15 to 0.2 more, which happens after an upgrade of Python
until you run `install` again). With a kubeconfig, the cached annotations of the pod's namespace are read, too. For orientation, the table
also has a meta plugin of the CNI project, a static Go program that reads and echoes the same prevResult. iptables is installed, as on any
Kubernetes host; without it, the Go plugin takes three times as long to find out.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from tailscale_cni.config import fastpath_note, load_config
from tailscale_cni.state import files
from tailscale_cni.state.namespaces import Namespaces
from tests.kit import tools
from tests.kit.interpreters import SUPPORTED, interpreters
from tests.kit.process import CLEAN, Argv, run
from tests.kit.runtime import ANNOTATIONS

from .costs import Cost, cost
from .lab import Lab
from .rows import Bound, Row, interleave

CONTAINER = "0123456789abcdef" * 4
ENVIRON = {
    **CLEAN,
    "CNI_CONTAINERID": CONTAINER,
    "CNI_NETNS": "/run/netns/cni-0d2f5a5e",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={CONTAINER};K8S_POD_UID=1-2",
}
PREV_RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "cni0", "mac": "02:00:00:00:00:02"},
        {"name": "veth1", "mac": "02:00:00:00:00:01"},
        {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/run/netns/cni-0d2f5a5e"},
    ],
    "ips": [{"interface": 2, "address": "10.42.0.7/24", "gateway": "10.42.0.1"}],
    "routes": [{"dst": "0.0.0.0/0"}],
    "dns": {},
}
CALLS = 15
"""The number of calls in one sample."""

AT_MOST = Bound(1.15)


def measure(lab: Lab) -> list[Row]:
    """Measure row a for each verb and each Python; in a quick run only for the newest Python."""
    pythons = [(version, python) for version, python in interpreters().items() if version >= SUPPORTED]
    plain, asked = Installed(lab.root / "plain"), Installed(lab.root / "asked", "kubeconfig: /nonexistent\n")
    asked.has_asked("default")
    rows = []
    for (major, minor), python in pythons[-1:] if lab.quick else pythons:
        plugin = install(python, lab.root / f"plugin-{minor}")
        bare: Argv = [python, "-I", "-S", "-c", "pass"]
        for verb in ("ADD", "DEL", "CHECK"):
            what = f"{verb}, not enrolled, CPython {major}.{minor}, over the bare interpreter"
            rows += compare(lab, what, Call(plain, verb), [plugin], bare, AT_MOST)
    portmap = tools.reference_plugins() / "portmap"
    rows += compare(
        lab, "ADD, not enrolled, over portmap, a Go plugin", Call(plain), [plugin], [portmap], None
    )
    what = "ADD, not enrolled, with a kubeconfig, over the bare interpreter"
    return rows + compare(lab, what, Call(asked), [plugin], bare, AT_MOST)


def install(python: Path, plugin: Path) -> Path:
    """Write the artefact to ``plugin`` as ``install`` does with this Python, and return the path."""
    script = "import sys, pathlib; sys.path.insert(0, sys.argv[1] + '/site-packages')\n"
    script += "from tailscale_cni.build.interpreter import fit_to_python\n"
    script += "pathlib.Path(sys.argv[2]).write_bytes(fit_to_python(pathlib.Path(sys.argv[1]), sys.argv[3]))"
    run([python, "-IS", "-c", script, tools.artefact(), plugin, python])
    plugin.chmod(0o755)
    return plugin


class Installed:
    """A host on which ``install`` has written the note for the fast path."""

    def __init__(self, root: Path, configuration: str = "tags: [tag:k8s-pod]\n") -> None:
        self.root, self.state = root, root / "state"
        conf_dir = root / "net.d"
        for directory in (self.state, conf_dir):
            directory.mkdir(parents=True)
        primary = conf_dir / "10-cbr0.conflist"
        primary.touch()
        config = root / "config.yaml"
        config.write_text(configuration, encoding="utf-8")
        self.roots = {"stateDir": str(self.state), "runDir": str(root / "run"), "configFile": str(config)}
        view = fastpath_note(load_config(self.roots), str(conf_dir), str(primary))
        files.write_json(str(self.state / "enroll.json"), view)

    def has_asked(self, namespace: str) -> None:
        """Cache an answer of the API that is valid for an hour: the namespace has no annotations."""
        Namespaces(str(self.state)).renew(namespace, dict, wait=True)
        note = self.state / "namespaces" / f"{namespace}.json"
        document = json.loads(note.read_text(encoding="utf-8"))
        files.write_json(str(note), document | {"until": document["asked"] + 3600})


class Call:
    """A CNI call for a pod without annotations, which can be repeated."""

    def __init__(self, host: Installed, verb: str = "ADD") -> None:
        config = {
            "cniVersion": "1.0.0",
            "name": "cbr0",
            "capabilities": {"portMappings": True, ANNOTATIONS: True},
        }
        config |= {
            "runtimeConfig": {ANNOTATIONS: {"kubernetes.io/config.source": "api"}},
            "prevResult": PREV_RESULT,
        }
        self.verb = verb
        self.stdin = host.root / "call.json"
        self.stdin.write_text(json.dumps({**config, "type": "tailscale-cni", **host.roots}))

    def cost(self, *argv: str | Path) -> Cost:
        """The medians of wall and CPU time of several calls, because a single call is shorter than the scheduler's disturbances."""
        costs = [
            cost(argv, environ={**ENVIRON, "CNI_COMMAND": self.verb}, stdin=self.stdin) for _ in range(CALLS)
        ]
        return Cost(median(c.wall for c in costs), median(c.cpu for c in costs))


def compare(lab: Lab, what: str, call: Call, ours: Argv, anchor: Argv, bound: Bound | None) -> list[Row]:
    """Two rows, for wall and CPU time."""
    costs = interleave(lab.rounds, ours=lambda: call.cost(*ours), anchor=lambda: call.cost(*anchor))
    rows = []
    for name, one in (("wall", lambda c: c.wall), ("CPU", lambda c: c.cpu)):
        mine, theirs = (tuple(map(one, costs[who])) for who in ("ours", "anchor"))
        rows.append(Row("a", f"{what}, {name}", "ms", mine, theirs, bound))
    return rows
