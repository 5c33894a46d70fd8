"""A separable convolution between two pointwise ones, as it stands for a 3 x 3 convolution in spiking transformers.

Paper: arXiv:2404.03663 (Meta-SpikeFormer). Upstream: BICLab/Spike-Driven-Transformer-V2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.conv.conv import conv2d
from blocks.folding import scale_output
from blocks.primitives.norms import BatchNorm, Eps
from blocks.registry import block


@block(
    "rep_conv",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2404.03663",
    covers=("metaspikformer",),
)
class RepConv(nn.Module):
    """y = norm(W_2 DW(border(norm_1(W_1 x)))), DW depthwise 3 x 3; the border of one pixel is what norm_1 makes of 0.

    (B, C, H, W) -> (B, C, H, W). `fuse()` leaves three convolutions: with s the shift of norm_1, border(y) is pad(y - s) + s, and s goes
    through DW as a bias.
    """

    norm: nn.Module | None
    norm_out: nn.Module | None

    def __init__(self, dim: int, *, eps: Eps = 1e-5):
        super().__init__()
        self.first = conv2d(dim, dim, 1, bias=False)
        self.norm = BatchNorm(dim, eps=eps)
        self.spatial = conv2d(dim, dim, 3, groups=dim, bias=False)
        self.last = conv2d(dim, dim, 1, bias=False)
        self.norm_out = BatchNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if isinstance(self.norm, BatchNorm):
            y = self.norm(y)
            shift = self.norm.as_affine()[1].detach().to(y.dtype).view(-1, 1, 1)
            y = F.pad(y - shift, (1, 1, 1, 1)) + shift
        y = self.last(self.spatial(y))
        return y if self.norm_out is None else self.norm_out(y)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        if isinstance(self.norm, BatchNorm) and isinstance(self.norm_out, BatchNorm):
            scale, shift = self.norm.as_affine()
            scale_output(self.first, scale, torch.zeros_like(shift))
            self.spatial.padding = (1, 1)
            self.spatial.bias = nn.Parameter(self.spatial.weight.sum((1, 2, 3)) * shift, requires_grad=False)
            scale_output(self.last, *self.norm_out.as_affine())
            self.norm = self.norm_out = None
        return self

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        if self.norm_out is not None:
            return False
        scale_output(self.last, scale, shift)
        return True
