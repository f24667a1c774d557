"""The host's settings: the conflist entry and ``config.yaml``, parsed once to one frozen Config.

Both take the same keys; the entry takes precedence. Only the entry has ``stateDir``, ``runDir`` and ``configFile``, because they say
where everything else is. No other package reads the environment or has path constants of its own.
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
