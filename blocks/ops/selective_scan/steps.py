"""What the backends of the scan agree on: blocks of steps, where sequences begin, dtypes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

OP = "selective_scan"
BACKWARD = "selective_scan_backward"
STEPS = 16
"""Steps of a block: for a gradient the state before each block is kept, and the block run again."""


class Scan(NamedTuple):
    """The tensors of a scan: u, delta, z (B, L, D), A (D, N), B, C (B, L, G, N), D, bias (D,), state (S, D, N), borders (S+1,)."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    bias: Tensor | None = None
    softplus: bool = False
    state: Tensor | None = None
    borders: Tensor | None = None


class Gradients(NamedTuple):
    """The gradients of the inputs of a scan that have one, in the order in which the op gives them; None where there is no such input."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    bias: Tensor | None
    state: Tensor


def common_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype that holds the values of all."""
    dtypes = [tensor.dtype for tensor in tensors if tensor is not None]
    wide = dtypes[0]
    for dtype in dtypes[1:]:
        wide = torch.promote_types(wide, dtype)
    return wide


def fast_dtype(*tensors: Tensor | None) -> torch.dtype:
    """What all backends but the reference compute in, and keep states in: float32 at least."""
    return torch.promote_types(common_dtype(*tensors), torch.float32)


def kept_blocks(samples: int, length: int, borders: Tensor | None) -> int:
    """How many states are kept for a gradient; packed, an upper bound that needs no look at the borders."""
    if borders is None:
        return samples * _blocks(length)
    return length // STEPS + borders.shape[0] - 1


def first_blocks(lengths: list[int], packed: bool) -> list[int]:
    """Where the kept states of each sequence begin; each has one per STEPS steps or part of them."""
    if not packed:
        return [index * _blocks(length) for index, length in enumerate(lengths)]
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    return [start // STEPS + index for index, start in enumerate(starts)]


def _blocks(length: int) -> int:
    return (length + STEPS - 1) // STEPS
