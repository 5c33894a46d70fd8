"""Between tensors and C++: what kernels can take, addresses, and the layout that they expect."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor


def unfit(dtype: torch.dtype, *tensors: Tensor | None) -> str:
    """Why kernels that read float32 from the memory of a CPU cannot compute in `dtype` with these tensors; "" when they can."""
    for tensor in tensors:
        if tensor is None:
            continue
        if not tensor.is_cpu:
            return f"the tensors are on {tensor.device}"
        if tensor.layout is not torch.strided or tensor.is_neg():
            return "a tensor is not the numbers that lie in its memory"
    return "" if dtype == torch.float32 else f"it computes in float32, not {str(dtype).removeprefix('torch.')}"


def addresses(tensors: Mapping[str, Tensor | None]) -> dict[str, int]:
    """Where the numbers of each tensor lie. The caller keeps the tensors alive until the kernel is back."""
    return {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}


def rows(x: Tensor) -> Tensor:
    """(B, L, ..., D) with neighbours of the last axis side by side and one stride from row to row of all B * L.

    A copy only where it has to be: half of what a linear layer gave, split along its last axis, is taken as it lies.
    """
    regular = x.stride(-1) == 1 and x.shape[1] > 1 and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    return x if regular else x.contiguous()


def row_stride(x: Tensor | None) -> int:
    """Numbers from one row of `rows(x)` to the next."""
    if x is None:
        return 0
    return x.stride(1) if x.shape[1] > 1 else x.stride(0)


def whole_numbers(values: list[int]) -> Tensor:
    """An array of int64 for C++, whatever torch's default device is."""
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def borders_at(lengths: list[int]) -> Tensor:
    """Rows where segments of these lengths start and end; not to be written to."""
    return _borders(tuple(lengths))


@functools.lru_cache(maxsize=256)
def _borders(lengths: tuple[int, ...]) -> Tensor:
    """Kept, since a step of decoding asks for the same at every layer."""
    return whole_numbers(list(itertools.accumulate(lengths, initial=0)))
