"""What the project builds, and the cache that it builds into.

Everything is keyed by content: the same inputs give the same immutable directory, and other inputs never do.
Standard library only: this runs before anything is installed.

The folder above is called `packaging`, as a distribution on PyPI is, so it is a folder on the path and not a
package. `packaging/build.py` and pytest (`pythonpath` in pyproject.toml) put it there; whoever else imports
`builds` sets PYTHONPATH=packaging, as the Makefile does.

    from builds import cache_dir, devcontrol, go_build, go_toolchain, need, workers, zipapp
"""

from builds.apt import need
from builds.artefact import zipapp
from builds.cache import build_once, cache_dir
from builds.environment import venv
from builds.go import devcontrol, go_build, go_toolchain, workers

__all__ = [
    "build_once",
    "cache_dir",
    "devcontrol",
    "go_build",
    "go_toolchain",
    "need",
    "venv",
    "workers",
    "zipapp",
]
