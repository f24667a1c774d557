"""The host's settings: the conflist entry and ``config.yaml``, parsed once to one frozen Config.

Both take the same keys, and the entry's win. No other room reads a path constant or the environment. ``stateDir``, ``runDir`` and
``configFile`` are keys of the entry alone, because they say where everything else is.
"""

from .fastpath_note import fastpath_note, fingerprint
from .load import load_config, load_for_cleanup, read, unknown
from .parsers import ALWAYS, UID_COUNT, Permission, in_units, plain
from .settings import (
    CONFIG_FILE,
    DEFAULT,
    ENTRY,
    KEY_FILE,
    ROOTS,
    RUN_DIR,
    SETTINGS,
    STATE_DIR,
    Config,
    Setting,
    attribute,
)

__all__ = [
    "ALWAYS",
    "CONFIG_FILE",
    "DEFAULT",
    "ENTRY",
    "KEY_FILE",
    "ROOTS",
    "RUN_DIR",
    "SETTINGS",
    "STATE_DIR",
    "UID_COUNT",
    "Config",
    "Permission",
    "Setting",
    "attribute",
    "fastpath_note",
    "fingerprint",
    "in_units",
    "load_config",
    "load_for_cleanup",
    "plain",
    "read",
    "unknown",
]
