"""Sequences packed into one sample: where each begins."""

from __future__ import annotations

import itertools

from torch import Tensor


def lengths_of(x: Tensor, borders: Tensor | None) -> list[int]:
    """Steps of each sequence of x (B, L, ...). Raises ValueError for borders that do not rise from 0 to L."""
    if borders is None:
        return [x.shape[1]] * x.shape[0]
    at = borders.tolist()
    lengths = [end - begin for begin, end in itertools.pairwise(at)]
    if at[0] != 0 or at[-1] != x.shape[1] or min(lengths) < 0:
        raise ValueError(f"`cu_seqlens` should rise from 0 to {x.shape[1]}, the length; it is {at}")
    return lengths
