"""What the recurrences share at their front doors: shapes checked, dtypes promoted, heads repeated, packed sequences parted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Sequence = Callable[..., tuple[Tensor, Tensor]]
"""(state or None, tensors (B, L, …)) -> (output (B, L, …), the state after the last step)."""


def promoted(*tensors: Tensor | None) -> torch.dtype:
    """The dtype that holds the values of all."""
    dtypes = [tensor.dtype for tensor in tensors if tensor is not None]
    wide = dtypes[0]
    for dtype in dtypes[1:]:
        wide = torch.promote_types(wide, dtype)
    return wide


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 where that is given: what states are kept in."""
    return torch.promote_types(dtype, torch.float32)


def check_shapes(expected: dict[str, tuple[Tensor | None, tuple[int, ...]]], name: str, given: Tensor) -> None:
    """Raises ValueError for the first tensor that has not the shape that `given`, the argument `name`, asks for."""
    for other, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"`{other}` has shape {tuple(tensor.shape)}; for {name} of shape {tuple(given.shape)} it should be {shape}"
            )


def shared_by(x: Tensor, heads: int) -> Tensor:
    """(B, L, G, …) -> (B, L, H, …): what G groups share, for each head of the group."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], 2)


def each_sequence(
    run: Sequence, cu_seqlens: Tensor | None, state: Tensor | None, *tensors: Tensor
) -> tuple[Tensor, Tensor]:
    """`run` on the whole batch or, with `cu_seqlens`, on each of the sequences that are packed into one row.

    States are (B, …), and those of packed sequences (N, …), in their order. Raises ValueError for borders that are not
    those of one row.
    """
    if cu_seqlens is None:
        return run(state, *tensors)
    borders, (batch, length) = cu_seqlens.tolist(), tensors[0].shape[:2]
    if batch != 1 or borders[0] != 0 or borders[-1] != length or sorted(set(borders)) != borders:
        raise ValueError(
            f"cu_seqlens are rising borders of one row, from 0 to its length {length}; found {borders} for {batch} rows"
        )
    ends = list(zip(borders, borders[1:], strict=False))
    states = [None] * len(ends) if state is None else state.split(1)
    parts = [
        run(before, *(tensor[:, start:end] for tensor in tensors))
        for before, (start, end) in zip(states, ends, strict=True)
    ]
    return torch.cat([y for y, _ in parts], 1), torch.cat([after for _, after in parts])
