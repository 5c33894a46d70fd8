"""How a block on meta that has no `reset_parameters` begins: its constructor runs once more, with what it was given."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

ARGUMENTS = "_made_with"
"""The attribute of a block on meta that has no way of its own to begin anew: what its constructor was given. It lives in the block, since
arguments may hold modules of the same net, which a table of ours would keep alive for ever."""


def orphans(block: nn.Module) -> dict[str, nn.Module]:
    """{path: part}: the block and the modules in it that hold parameters or buffers and have no `reset_parameters`.

    Other blocks see to themselves."""
    return {path: part for path, part in _own_parts(block, "") if part._parameters or part._buffers}


def _own_parts(block: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    yield path, block
    for name, child in block.named_children():
        if not hasattr(child, "block_id") and not hasattr(child, "reset_parameters"):
            yield from _own_parts(child, f"{path}.{name}".lstrip("."))


def is_on_meta(part: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in (*part.parameters(False), *part.buffers(False)))


def made_again(module: nn.Module) -> nn.Module | None:
    """A block as its constructor makes it, on the CPU, for one that was made on meta; None when nobody remembers how."""
    arguments = module.__dict__.get(ARGUMENTS)
    if arguments is None:
        return None
    with torch.device("cpu"):
        twin: nn.Module = type(module)(**arguments)
    return twin


def forget_arguments(net: nn.Module) -> None:
    """Takes from a net that has its values what its blocks remembered in order to begin anew."""
    for module in net.modules():
        module.__dict__.pop(ARGUMENTS, None)
