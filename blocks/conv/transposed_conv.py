"""Transposed convolutions: maps enlarged by what is learned."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block("transposed_conv", kind="downsample", layout="BCHW", abilities=("any_resolution", "2d"))
class TransposedConv(nn.ConvTranspose2d):
    """Every pixel of x times a k x k kernel, laid `stride` pixels apart and summed: the gradient of a strided convolution.

    (B, C, H, W) -> (B, out_dim, H', W') with H' = (H - 1) stride - 2 padding + k; without `padding` that is stride H, for an even k - stride.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Count = 4,
        stride: Count = 2,
        padding: Annotated[int, Meta(ge=0)] | None = None,
        bias: bool = True,
    ):
        if padding is None:
            if (kernel_size - stride) % 2 or kernel_size < stride:
                raise ValueError(f"a kernel of {kernel_size} and a stride of {stride} need their `padding` stated")
            padding = (kernel_size - stride) // 2
        super().__init__(dim, out_dim or dim, kernel_size, stride, padding, bias=bias)
        self.out_dim = out_dim or dim

    @torch.no_grad()
    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        """The kernel of a transposed convolution has its outputs on axis 1."""
        self.weight = nn.Parameter(self.weight * scale.to(self.weight).view(-1, 1, 1), requires_grad=False)
        bias = shift if self.bias is None else self.bias * scale + shift
        self.bias = nn.Parameter(bias.to(self.weight), requires_grad=False)
        return True
