"""A linear map of ternary weights and inputs of eight bits, as MatMul-free language models have it. Paper: arXiv:2406.02528.

Names of the state are those of ridgerchu/matmulfreellm (Apache-2.0). Rounding is to the nearest whole number, halves to even.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block
from blocks.structured.structured import EVERYWHERE

STEPS = 127
"""The largest whole number that an input becomes."""
LEAST = 1e-5
"""What is held to be the largest input, or the mean weight, where it is smaller."""


@block("bit_linear", kind="linear", abilities=EVERYWHERE, paper="arXiv:2406.02528", covers=("bitnet", "matmul_free"))
class BitLinear(nn.Module):
    """y = q(norm x) t(W)^T + b: each position in 255 steps of its largest channel, W in -m, 0 and m.

    q(x) = round(x 127 / s) s / 127 with s = max_C |x|, t(W) = m clamp(round(W / m), -1, 1) with m = mean |W|; s and m are 1e-5 at least.
    norm is an RMS norm with weights of its own. (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. Gradients pass
    q and t as if they were not there. There is no deploy form: weights rounded in another precision would move inputs over a half.
    """

    def __init__(
        self, dim: int, out_dim: int | None = None, *, eps: Annotated[float, Meta(gt=0)] = 1e-6, bias: bool = True
    ):
        super().__init__()
        self.dim, self.out_dim = dim, out_dim or dim
        self.norm = nn.RMSNorm(dim, eps=eps)
        self.weight = nn.Parameter(torch.empty(self.out_dim, dim))
        self.register_parameter("bias", nn.Parameter(torch.empty(self.out_dim)) if bias else None)
        self.bias: nn.Parameter | None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.dim**-0.5), self.dim**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"matmul": math.prod(shape) * self.out_dim}

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        weight = through(self.weight, ternary(self.weight))
        normed = self.norm(rows)
        y = F.linear(through(normed, in_steps(normed)), weight, self.bias)
        return y.permute(0, 3, 1, 2) if x.ndim == 4 else y


def in_steps(x: Tensor) -> Tensor:
    """q(x), along the last axis."""
    scale = STEPS / x.abs().amax(-1, keepdim=True).clamp_min(LEAST)
    return (x * scale).round().clamp(-STEPS - 1, STEPS) / scale


def ternary(weight: Tensor) -> Tensor:
    """t(W)."""
    scale = 1 / weight.abs().mean().clamp_min(LEAST)
    return (weight * scale).round().clamp(-1, 1) / scale


def through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of x."""
    return x + (rounded - x).detach() if x.requires_grad else rounded
