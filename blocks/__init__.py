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
from typing import Any

from blocks.errors import BlockError
from blocks.registry import BlockInfo, block, describe, get, list_blocks
from blocks.slots import Act, Linear, Mixer, Norm, Router, Slot, View, slot

_WITH_TORCH = {"Context": "blocks.context", "run": "blocks.chain", "Chain": "blocks.chain", "fuse": "blocks.folding"}

__all__ = [
    "Act", "BlockError", "BlockInfo", "Chain", "Context", "Linear", "Mixer", "Norm", "Router", "Slot", "View",
    "block", "describe", "fuse", "get", "list_blocks", "run", "slot",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(importlib.import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module `blocks` has no attribute `{name}`")
