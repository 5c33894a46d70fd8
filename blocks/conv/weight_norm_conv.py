"""Convolutions whose kernels are a direction and a length, learned apart. Paper: arXiv:1602.07868 (Weight Normalization).

Names of the state are those of torch.nn.utils.weight_norm.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.conv.conv import Conv
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block(
    "weight_norm_conv",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1602.07868",
    covers=("weight_normalization",),
)
class WeightNormConv(nn.Module):
    """y = W * x + b with W = g v / |v|: `weight_v` (out_dim, C, k, k) is the direction of each kernel, `weight_g` (out_dim, 1, 1, 1) its length.

    (B, C, H, W) -> (B, out_dim, H, W), with zero padding. `fuse()` gives the `conv` of the kernel W. Raises ValueError for an even kernel.
    """

    fresh = True
    bias: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 3,
        bias: bool = True,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.dim, self.kernel_size, self.out_dim = dim, kernel_size, out_dim or dim
        self.weight_g = nn.Parameter(torch.empty(self.out_dim, 1, 1, 1))
        self.weight_v = nn.Parameter(torch.empty(self.out_dim, dim, kernel_size, kernel_size))
        self.register_parameter("bias", nn.Parameter(torch.empty(self.out_dim)) if bias else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Those of a convolution of torch, whose kernels keep their length."""
        bound = (self.dim * self.kernel_size**2) ** -0.5
        nn.init.uniform_(self.weight_v, -bound, bound)
        self.weight_g.copy_(self._lengths())
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """B H W out_dim C k k."""
        B, _, H, W = shape
        return {"convolution": B * H * W * self.weight_v.numel()}

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self._kernels(), self.bias, padding=self.kernel_size // 2)

    def fuse(self) -> nn.Module:
        conv = Conv(self.dim, self.out_dim, kernel_size=self.kernel_size, bias=self.bias is not None)
        conv.weight = nn.Parameter(self._kernels().detach(), requires_grad=False)
        conv.bias = self.bias
        return conv

    def _kernels(self) -> Tensor:
        return self.weight_v * (self.weight_g / self._lengths())

    def _lengths(self) -> Tensor:
        return torch.linalg.vector_norm(self.weight_v, dim=(1, 2, 3), keepdim=True)
