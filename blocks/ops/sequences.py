"""Sequences packed into one sample: where each begins, and what is refused as such."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

INTEGERS = (
    *(torch.uint8, torch.int8, torch.uint16, torch.int16),
    *(torch.uint32, torch.int32, torch.uint64, torch.int64),
)


def checked_borders(borders: Tensor | None, x: Tensor, samples: int, length: int, name: str) -> Tensor | None:
    """`cu_seqlens` (S + 1,) as int64, the borders of S sequences in the one sample of `x`, the argument `name`.

    Every op that takes packed sequences asks this first, whatever backend runs. Raises ValueError for more samples than
    one, and for anything but a row of integers on the device of x (of a meta x, on any). Whether they rise from 0 to
    `length` is for `lengths_of`, which looks at the values.
    """
    if borders is None:
        return None
    if samples != 1:
        raise ValueError(f"`cu_seqlens` packs sequences into one sample; {name} has {samples}")
    should = f"`cu_seqlens` should be integers that rise from 0 to {length}, the length, on {x.device}"
    if not isinstance(borders, Tensor):
        raise ValueError(f"{should}; it is no tensor but a {type(borders).__name__}")
    elsewhere = borders.device != x.device and not x.is_meta
    if borders.dtype not in INTEGERS or borders.ndim != 1 or not borders.shape[0] or elsewhere:
        dtype = str(borders.dtype).removeprefix("torch.")
        raise ValueError(f"{should}; it is {dtype} of shape {tuple(borders.shape)} on {borders.device}")
    return borders.to(torch.int64)


def lengths_of(x: Tensor, borders: Tensor | None) -> list[int]:
    """Steps of each sequence of x (B, L, ...). Raises ValueError for borders that do not rise from 0 to L."""
    if borders is None:
        return [x.shape[1]] * x.shape[0]
    if borders.is_meta:
        raise ValueError("`cu_seqlens` is on meta, where it has no values; next: give it on the CPU")
    at = borders.tolist()
    lengths = [end - begin for begin, end in itertools.pairwise(at)]
    if not at or at[0] != 0 or at[-1] != x.shape[1] or any(length < 0 for length in lengths):
        raise ValueError(f"`cu_seqlens` should rise from 0 to {x.shape[1]}, the length; it is {at}")
    return lengths
