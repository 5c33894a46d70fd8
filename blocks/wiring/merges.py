"""Merges: blocks that make one tensor of several, at the nodes of a graph. They are given the widths of all, `dims`."""

from __future__ import annotations

import functools
import operator
from typing import Literal

import torch
from torch import Tensor, nn

from blocks.registry import block


def one_width(dims: tuple[int, ...]) -> int:
    """The width that all have. Raises ValueError for several."""
    if len(set(dims)) > 1:
        raise ValueError(f"tensors of {', '.join(map(str, dims))} channels have no sum")
    return dims[0]


@block("cat", kind="merge", abilities=("causal", "noncausal", "any_resolution"))
class Cat(nn.Module):
    """y = x_1, x_2, … one behind the other along the channels.

    n x (B, C_i, H, W) -> (B, sum C_i, H, W), or n x (B, L, C_i).
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.out_dim = sum(dims)

    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, 1 if tensors[0].ndim > 3 else -1)


@block("sum", kind="merge", abilities=("causal", "noncausal", "any_resolution"))
class Sum(nn.Module):
    """y = x_1 + x_2 + …

    n x (B, C, H, W), or tokens -> the same shape. Raises ValueError for several widths.
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.out_dim = one_width(dims)

    def forward(self, *tensors: Tensor) -> Tensor:
        return functools.reduce(operator.add, tensors)


@block("product", kind="merge", abilities=("causal", "noncausal", "any_resolution"))
class Product(nn.Module):
    """y = x_1 * x_2 * …: gates and what they open.

    n x (B, C, H, W), or tokens -> the same shape; a gate may have one channel, or one pixel. Raises ValueError for several widths.
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.out_dim = one_width(tuple(width for width in dims if width > 1) or (1,))

    def forward(self, *tensors: Tensor) -> Tensor:
        return functools.reduce(operator.mul, tensors)


@block(
    "weighted_sum",
    kind="merge",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:1911.09070",
    covers=("fast_normalized_fusion",),
)
class WeightedSum(nn.Module):
    """y = sum_i w_i x_i / (sum_i w_i + eps) with w = relu(weight), or with the law `softmax` w = softmax(weight) and no division.

    n x (B, C, H, W), or tokens -> the same shape. `weight` (n,) starts at 1. Raises ValueError for several widths.
    """

    def __init__(self, dims: tuple[int, ...], *, law: Literal["fast", "softmax"] = "fast", eps: float = 1e-4):
        super().__init__()
        self.law, self.eps = law, eps
        self.out_dim = one_width(dims)
        self.weight = nn.Parameter(torch.empty(len(dims)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, *tensors: Tensor) -> Tensor:
        weights = self._shares().to(tensors[0].dtype)
        y = tensors[0] * weights[0]
        for x, weight in zip(tensors[1:], weights[1:], strict=True):
            y = torch.addcmul(y, x, weight)
        return y

    def _shares(self) -> Tensor:
        if self.law == "softmax":
            return self.weight.softmax(0)
        weight = self.weight.relu()
        return weight / (weight.sum() + self.eps)
