"""The project's builds, and the cache that holds their results.

Each result is an immutable directory, keyed by a digest of all inputs. Standard library only, because this runs before anything is
installed.

The folder above is on the path instead of being a package, because PyPI has a distribution called `packaging`. `packaging/build.py` and
pytest (`pythonpath` in pyproject.toml) put it there. Other programs that import `builds` set PYTHONPATH=packaging, as the Makefile does.

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
