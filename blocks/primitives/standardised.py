"""Norms that learn nothing and remember nothing: moments of what is at hand, of the batch, of each sample, or of both in turn.

Paper: arXiv:2401.17948 (group-based instance-batch standardisation)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block


@block(
    "standardise", kind="norm", abilities=("noncausal", "any_resolution"), paper="arXiv:2401.17948", covers=("g_ibs",)
)
class Standardise(nn.Module):
    """y = (x - mean) / sqrt(var + eps), with the moments of each channel over the positions of a sample, or of all samples.

    (B, C, H, W) or (B, L, C) -> the same shape, the same in training and evaluation: over the `batch` an output depends on what stands
    beside it. "turns" are `groups` of neighbouring channels, of which the first, third, … are standardised over the batch and the
    others over each sample. Raises ValueError where the groups do not divide the width.
    """

    def __init__(
        self,
        dim: int,
        *,
        over: Literal["sample", "batch", "turns"] = "sample",
        groups: Annotated[int, Meta(ge=2)] = 2,
        eps: Annotated[float, Meta(gt=0)] = 1e-5,
    ):
        super().__init__()
        if over == "turns" and dim % groups:
            raise ValueError(f"{groups} groups do not divide {dim} channels")
        self.over, self.groups, self.eps = over, groups, eps

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        if self.over != "turns":
            return self.standardised(x, self.over == "batch")
        axis = 1 if x.ndim == 4 else -1
        parts = x.chunk(self.groups, axis)
        return torch.cat([self.standardised(part, turn % 2 == 0) for turn, part in enumerate(parts)], axis)

    def standardised(self, x: Tensor, batch: bool) -> Tensor:
        positions = (2, 3) if x.ndim == 4 else (1,)
        var, mean = torch.var_mean(x, (0, *positions) if batch else positions, correction=0, keepdim=True)
        return (x - mean) * (var + self.eps).rsqrt()
