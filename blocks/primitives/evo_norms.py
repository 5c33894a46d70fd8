"""Norms that a search found together with an activation: they stand in the place of both.

Paper: arXiv:2004.02967 (table 3: B0 and S0).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.accumulators import Accumulating, accumulator
from blocks.chain import per_channel
from blocks.primitives.norms import Affine, Eps
from blocks.registry import block


class EvoNorm(Affine):
    """Base: beside scale and shift a slope `v` (C,) of the activation, ones at first."""

    bias: nn.Parameter

    def __init__(self, dim: int, eps: float):
        super().__init__(dim, eps, bias=True)
        self.v = nn.Parameter(torch.empty(dim))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.v)

    def _scaled(self, y: Tensor) -> Tensor:
        return y * per_channel(self.weight, y) + per_channel(self.bias, y)


@block(
    "evo_norm_b0",
    kind="norm",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2004.02967",
    covers=("evonorm", "evonorm2d_b0"),
)
class EvoNormB0(EvoNorm, Accumulating):
    """y = weight * x / max(sqrt(var_B + eps), v * x + sqrt(var_P + eps)) + bias, var_B over batch and positions, var_P over positions.

    (B, C, H, W) or (B, L, C) -> the same shape. Evaluation uses a running var_B, which moves by `momentum` at each training step and stays
    in float32 (`blocks.accumulators`). Raises ValueError in training for fewer than two values of a channel.
    """

    accumulators = ("running_var",)
    running_var: Tensor

    def __init__(self, dim: int, *, eps: Eps = 1e-3, momentum: Annotated[float, Meta(gt=0, le=1)] = 0.1):
        super().__init__(dim, eps)
        self.momentum = momentum
        self.register_buffer("running_var", accumulator(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.running_var.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        positions = (2, 3) if x.ndim == 4 else (1,)
        var = self._batch_var(x, positions) if self.training else self.running_var
        batch = per_channel((var + self.eps).sqrt().to(x.dtype), x)
        own = (x.var(positions, correction=0, keepdim=True) + self.eps).sqrt()
        return self._scaled(x / torch.maximum(batch, x * per_channel(self.v, x) + own))

    def _batch_var(self, x: Tensor, positions: tuple[int, ...]) -> Tensor:
        count = x.numel() // self.dim
        if count < 2:
            raise ValueError(
                f"evo_norm_b0 has no variance of {count} value of a channel in training; next: a larger batch"
            )
        var = x.to(self.running_var.dtype).var((0, *positions), correction=0)
        with torch.no_grad():
            self.running_var.lerp_(var.detach() * (count / (count - 1)), self.momentum)
        return var


@block(
    "evo_norm_s0",
    kind="norm",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2004.02967",
    covers=("evonorm2d_s0",),
)
class EvoNormS0(EvoNorm):
    """y = weight * x * sigmoid(v * x) / sqrt(var_G + eps) + bias, var_G over the positions and channels of a group, of each sample.

    (B, C, H, W) or (B, L, C) -> the same shape, the same in training and evaluation. Raises ValueError when `groups` does not divide C.
    """

    def __init__(self, dim: int, *, groups: Annotated[int, Meta(ge=1)] = 32, eps: Eps = 1e-5):
        if dim % groups:
            near = min(
                (count for count in range(1, dim + 1) if dim % count == 0), key=lambda count: abs(count - groups)
            )
            raise ValueError(f"{groups} groups do not divide {dim} channels; the nearest number that does is {near}")
        super().__init__(dim, eps)
        self.groups = groups
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        channels = 1 if x.ndim == 4 else -1
        grouped = x.unflatten(channels, (self.groups, -1))
        others = (2, 3, 4) if x.ndim == 4 else (1, 3)
        std = (grouped.var(others, correction=0, keepdim=True) + self.eps).sqrt()
        y = (grouped / std).flatten(1, 2) if x.ndim == 4 else (grouped / std).flatten(2)
        return self._scaled(y * torch.sigmoid(x * per_channel(self.v, x)))
