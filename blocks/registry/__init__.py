"""Which blocks there are: their names, kinds, parameters and slots, as data; classes load on use. Imports no torch.

errors          problems as sentences
words           what may be a name, and what may be printed
schema          parameters of a constructor as a schema; values that fit it
slots           holes in a block for other blocks
plugins         installed distributions that bring blocks
registration    identity -> what is known of a block -> its class
calls           a call of a block in a spec, filled with its defaults
index           the generated index of the core's blocks
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocks.registry.registration import (
        ABILITIES,
        INDEX,
        INDEX_OF_PLUGIN,
        KINDS,
        LAYOUTS,
        BlockInfo,
        block,
        core_index,
        covering,
        describe,
        forget_plugins,
        get,
        identities,
        identity_of,
        info_of,
        known,
        list_blocks,
        place_of,
        plugin_index,
    )

__all__ = [
    "ABILITIES",
    "INDEX",
    "INDEX_OF_PLUGIN",
    "KINDS",
    "LAYOUTS",
    "BlockInfo",
    "block",
    "core_index",
    "covering",
    "describe",
    "forget_plugins",
    "get",
    "identities",
    "identity_of",
    "info_of",
    "known",
    "list_blocks",
    "place_of",
    "plugin_index",
]


def __getattr__(name: str) -> Any:
    """What stands in `registration`, which is loaded when it is asked for: names and sentences need none of it."""
    if name == "resolve":  # its name in release 0.1
        warnings.warn("`blocks.registry.resolve` is now `identity_of`", DeprecationWarning, stacklevel=2)
        name = "identity_of"
    if name not in __all__:
        raise AttributeError(f"module `blocks.registry` has no attribute `{name}`")
    value = getattr(importlib.import_module("blocks.registry.registration"), name)
    globals()[name] = value
    return value
