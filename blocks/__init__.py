"""What a network is made of: a registry of efficient blocks. Importing this package imports no torch.

    import blocks
    blocks.list_blocks(kind="token_mixer", ability="causal")
    blocks.describe("dilated_reparam_conv")
    Mixer = blocks.get("dilated_reparam_conv")
    Mixer(64, kernel_size=13)

A block of one's own: decorate an `nn.Module` with `@blocks.block("my_mixer", kind="token_mixer")`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from blocks._moved import MOVED, answer_old_paths

if TYPE_CHECKING:
    from blocks.chain import Chain, run
    from blocks.context import Context
    from blocks.folding import fuse
    from blocks.registry import BlockInfo, block, describe, get, list_blocks
    from blocks.registry.errors import BlockError
    from blocks.registry.slots import Act, Linear, Mixer, Norm, Router, Slot, View, slot

answer_old_paths(MOVED)

_HOME = {
    **dict.fromkeys(["BlockInfo", "block", "describe", "get", "list_blocks"], "blocks.registry"),
    **dict.fromkeys(["Act", "Linear", "Mixer", "Norm", "Router", "Slot", "View", "slot"], "blocks.registry.slots"),
    **dict.fromkeys(["Chain", "run"], "blocks.chain"),
    "BlockError": "blocks.registry.errors",
    "Context": "blocks.context",
    "fuse": "blocks.folding",
}

__all__ = [
    "Act", "BlockError", "BlockInfo", "Chain", "Context", "Linear", "Mixer", "Norm", "Router", "Slot", "View",
    "block", "describe", "fuse", "get", "list_blocks", "run", "slot",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `blocks` has no attribute `{name}`")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
