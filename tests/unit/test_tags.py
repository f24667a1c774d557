"""Every feature of the tailscale version in use is omitted (workers/tags.txt) or kept with a reason (workers/features.txt)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from builds import go_toolchain
from builds.go import WORKERS, go_environ

OMITTED = (WORKERS / "tags.txt").read_text(encoding="ascii").strip().split(",")
KEPT = [
    line.split(maxsplit=1) for line in (WORKERS / "features.txt").read_text(encoding="ascii").splitlines()
]


def features() -> list[str]:
    """Returns the features that tailscale.com of workers/go.mod can omit (its feature/buildfeatures)."""
    command = [str(go_toolchain()), "mod", "download", "-json", "tailscale.com"]
    done = subprocess.run(command, cwd=WORKERS, env=go_environ(), check=True, capture_output=True, text=True)
    folder = Path(json.loads(done.stdout)["Dir"], "feature", "buildfeatures")
    found = [
        path.name.removeprefix("feature_").removesuffix("_disabled.go")
        for path in folder.glob("feature_*_disabled.go")
    ]
    assert len(found) > 50
    return sorted(found)


def test_each_feature_is_left_out_or_kept() -> None:
    """Every feature is either omitted or kept. After an upgrade, decide on new features and drop removed ones."""
    decided = [tag.removeprefix("ts_omit_") for tag in OMITTED] + [words[0] for words in KEPT]
    assert sorted(decided) == features()


def test_each_kept_feature_has_a_reason() -> None:
    """Each line in features.txt has a feature and its reason."""
    assert all(len(words) == 2 for words in KEPT)
