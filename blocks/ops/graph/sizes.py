"""Lengths in a graph: numbers, where they are fixed, and else what the recorder makes of them.

Under torch.jit a size is a tensor, under torch.export a symbol; both can be free. Chunks are cut with the same few operations of any.
L is here the length, C the steps of a chunk, n the number of chunks, X whatever stands behind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.recorded import fixed, lengths_are_free

Size = Any
"""An int, a torch.SymInt, or a tensor of one whole number."""


def length_of(x: Tensor, axis: int = 1) -> Size:
    """How many steps x (B, L, X) has: a number where lengths are fixed."""
    return x.shape[axis] if lengths_are_free() else fixed(x)[axis]


def is_number(size: Size) -> bool:
    """Whether a size is known while the graph is made."""
    return isinstance(size, int)


def chunks_of(length: Size, most: int) -> tuple[Size, Size]:
    """(C, n): chunks of `most` steps or, of a shorter sequence, of all.

    Of a symbol always of `most`, and one chunk more than is needed: a program of torch.export holds for one chunk or for several.
    """
    if isinstance(length, torch.SymInt):
        return most, (length + most - 1) // most + 1
    steps = max(1, min(length, most)) if is_number(length) else length.clamp(1, most)
    return steps, (length + steps - 1) // steps


def in_chunks(x: Tensor, length: Size, steps: Size, count: Size, axis: int = 1) -> Tensor:
    """(B, L, X) -> (B, n, C, X), filled up with zeros behind."""
    return filled(x, length, count * steps, axis).unflatten(axis, (count, steps))


def filled(x: Tensor, length: Size, whole: Size, axis: int) -> Tensor:
    """x with zeros behind its last step, `whole` steps in all."""
    if is_number(whole) and whole == length:
        return x
    if isinstance(whole, torch.SymInt):  # padding would ask whether there is any, and the program hold for one answer
        at = torch.arange(whole, device=x.device)  # type: ignore[call-overload]
        real = (at < length).view(*[1] * axis, -1, *[1] * (x.ndim - axis - 1))
        return x.index_select(axis, at.clamp(max=length - 1)) * real.to(x.dtype)
    return F.pad(x, (0, 0) * (x.ndim - axis - 1) + (0, whole - length))


def in_sequence(x: Tensor, length: Size) -> Tensor:
    """(B, n, C, X) -> (B, L, X)."""
    return x.flatten(1, 2)[:, :length]


def of_each_head(x: Tensor, heads: int) -> Tensor:
    """(B, L, G, K) -> (B, L, H, K): what G groups share, for each head of the group."""
    groups = fixed(x)[2]
    if groups == heads:
        return x
    return x.unsqueeze(3).expand(*[-1] * 3, heads // groups, -1).flatten(2, 3)


def earlier(count: Size, like: Tensor) -> Tensor:
    """(n + 1, n): 1 where the column's chunk lies before the row's, else 0."""
    columns = torch.arange(count, device=like.device)
    rows = torch.arange(count + 1, device=like.device)
    return (rows.unsqueeze(1) > columns).to(like.dtype)
