"""Maps of each channel that nobody learns: mean and range of the pictures that a net was trained on, taken off and put on again."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import per_channel
from blocks.registry import block
from blocks.tables import Table

Numbers = float | Annotated[list[float], Meta(min_length=1, max_length=4096)]


@block("fixed_affine", kind="norm", abilities=("causal", "noncausal", "any_resolution"))
class FixedAffine(nn.Module):
    """y = factor * x + shift with numbers that are not learned: one for all channels, or a list of one for each.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape. Raises ValueError for lists of another length than C.
    """

    def __init__(self, dim: int, *, factor: Numbers = 1.0, shift: Numbers = 0.0):
        super().__init__()
        self.factor, self.shift = (Table(constants, (_each(numbers, dim),)) for numbers in (factor, shift))

    def forward(self, x: Tensor) -> Tensor:
        return x * per_channel(self.factor.like(x), x) + per_channel(self.shift.like(x), x)

    def as_affine(self) -> tuple[Tensor, Tensor]:
        return self.factor.values, self.shift.values


def constants(numbers: tuple[float, ...]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _each(numbers: float | list[float], dim: int) -> tuple[float, ...]:
    """One number for each of `dim` channels. Raises ValueError for a list of another length."""
    if not isinstance(numbers, list):
        return (numbers,) * dim
    if len(numbers) != dim:
        raise ValueError(f"{len(numbers)} numbers are not one for each of {dim} channels")
    return tuple(numbers)
