"""AFFNet's mixer: frequencies of the map weighed by a mask that a small net reads off them.

Paper: arXiv:2307.14008. Upstream: microsoft/TokenMixers (MIT).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides
from blocks.chain import run
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import Act, slot


@block(
    "frequency_filter",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2307.14008",
    covers=("affnet", "adaptive_frequency_filter"),
)
class FrequencyFilter(nn.Module):
    """y = x + rfft2^-1(shrink(W_2 act(W_1 X + b_1) + b_2) X), X = rfft2(x), orthonormal; `act` and shrink see real and imaginary parts apart.

    (B, C, H, W) -> (B, C, H, W). W_1 and W_2 (2, `num_blocks`, C / num_blocks, C / num_blocks) are complex and block-diagonal, real part
    first, and are applied as X W. shrink leaves 0 of what is smaller than `threshold`, and takes that much off the rest. Transforms are
    computed in float32 at least. Raises ValueError when `num_blocks` does not divide C.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_blocks: Annotated[int, Meta(ge=1)] = 8,
        threshold: Annotated[float, Meta(ge=0)] = 0.01,
        act: Act = slot("silu"),
    ):
        super().__init__()
        check_divides("num_blocks", num_blocks, "dim", dim)
        self.num_blocks, self.threshold = num_blocks, threshold
        size = dim // num_blocks
        self.w1, self.w2 = (nn.Parameter(torch.empty(2, num_blocks, size, size)) for _ in range(2))
        self.b1, self.b2 = (nn.Parameter(torch.empty(2, num_blocks, size)) for _ in range(2))
        self.act = act(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in (self.w1, self.w2, self.b1, self.b2):
            nn.init.trunc_normal_(parameter, std=0.02)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Four real products of each complex one, twice, in H (W / 2 + 1) frequencies."""
        B, C, H, W = shape
        return {"matmul": 8 * B * H * (W // 2 + 1) * C * (C // self.num_blocks), "fft": 2 * transform_flops(shape)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if type(x) is Tensor and not x.numel():
            return x
        spectrum = torch.fft.rfft2(wide, norm="ortho").permute(0, 2, 3, 1)
        blocks = spectrum.unflatten(3, (self.num_blocks, -1)).flatten(0, 2).transpose(0, 1)
        real, imaginary = torch.view_as_real(blocks).unbind(-1)  # (blocks, all frequencies, C / blocks)
        real, imaginary = (run(self.act, part, ctx) for part in _mixed(real, imaginary, self.w1, self.b1))
        real, imaginary = _mixed(real, imaginary, self.w2, self.b2)
        mask = torch.complex(F.softshrink(real, self.threshold), F.softshrink(imaginary, self.threshold))
        weighed = spectrum * mask.transpose(0, 1).reshape(spectrum.shape)
        return x + torch.fft.irfft2(weighed.permute(0, 3, 1, 2), s=x.shape[2:], norm="ortho").to(x.dtype)


def _mixed(real: Tensor, imaginary: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(real, imaginary) of x (blocks, N, width) times the complex `weight` (2, blocks, width, width), plus `bias`."""
    (w_real, w_imaginary), (b_real, b_imaginary) = weight.to(real.dtype), bias.unsqueeze(2).to(real.dtype)
    return (
        real @ w_real - imaginary @ w_imaginary + b_real,
        imaginary @ w_real + real @ w_imaginary + b_imaginary,
    )


def transform_flops(shape: tuple[int, ...]) -> int:
    """2.5 n log2 n for a real transform of n points."""
    B, C, H, W = shape
    return int(2.5 * B * C * H * W * math.log2(max(H * W, 2)))
