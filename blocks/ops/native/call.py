"""Between tensors and C++: addresses, and the layout that kernels expect."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


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
