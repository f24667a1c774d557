"""Build what suites use before they run, so that no time-out of a test counts a build: `python -m tests.prepare SUITE...`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import builds

from tests.cluster import programs
from tests.hosts import rootfs
from tests.kit import tools

Build = Callable[[], object]

COMMON: Final[tuple[Build, ...]] = (
    tools.artefact,
    tools.devcontrol,
    tools.clients,
    tools.reference_plugins,
)
BUILDS: Final[dict[str, tuple[Build, ...]]] = {
    "cluster": (
        programs.kubernetes,
        programs.containerd,
        programs.debian,
        partial(programs.image, "pause"),
        partial(programs.image, "busybox"),
        rootfs.debian,
        *COMMON,
    ),
    "hosts": (rootfs.debian, *COMMON),
    "netns": (tools.previous, *COMMON),
    "unit": (*(partial(builds.zipapp, goarch) for goarch in ("amd64", "arm64")), tools.apiclient, *COMMON),
}
"""What each suite uses, what takes longest first. What is built already costs nothing."""


def main() -> None:
    """Build for the named suites, two things at a time: one often waits for the network or the linker."""
    wanted = dict.fromkeys(build for name in BUILDS if name in sys.argv[1:] for build in BUILDS[name])
    with ThreadPoolExecutor(2) as pool:
        for build in [pool.submit(build) for build in wanted]:
            build.result()


if __name__ == "__main__":
    main()
