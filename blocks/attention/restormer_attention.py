"""Restormer's attention between channels: its cost is linear in the pixels. Paper: arXiv:2111.09881.

Names of the state are those of swz30/Restormer; its pointwise convolutions are matrices here.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.conv.conv import Conv
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "restormer_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2111.09881",
    covers=("mdta",),
)
class RestormerAttention(nn.Module):
    """y = W_o concat_h softmax(t_h q_h k_h^T) v_h, [q | k | v] = DW_k(W x), q and k (c, H W) of length 1 along the pixels.

    Scores are between the c = C / heads channels of a head, t a learned temperature per head. (B, C, H, W) -> (B, C, H, W).
    Raises ValueError when heads do not divide, and for an even kernel.
    """

    no_decay = ("temperature",)

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 3,
        bias: bool = False,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        width = self.num_heads * self.head_dim
        self.temperature = nn.Parameter(torch.empty(self.num_heads, 1, 1))
        self.qkv = linear(dim, 3 * width, bias=bias)
        self.qkv_dwconv = Conv(3 * width, kernel_size=kernel_size, groups=3 * width, bias=bias)
        self.project_out = linear(width, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.temperature)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 H W num_heads head_dim^2."""
        B, _, H, W = shape
        return {"matmul": 2 * B * H * W * self.num_heads * self.head_dim**2}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        H, W = x.shape[2:]
        qkv = self.qkv_dwconv(run(self.qkv, x, ctx)).permute(0, 2, 3, 1).flatten(1, 2)
        qkv = qkv.unflatten(-1, (3, self.num_heads, qkv.shape[-1] // (3 * self.num_heads)))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, H * W, c)
        scores = F.normalize(q, dim=-2).transpose(-1, -2) @ F.normalize(k, dim=-2)
        y = v @ (scores * self.temperature).softmax(-1).transpose(-1, -2)
        image = y.transpose(1, 2).flatten(2).unflatten(1, (H, W)).permute(0, 3, 1, 2)
        return run(self.project_out, image, ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.project_out.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        # behind the linear map stands a convolution with a border of zeros, which a shift would not be
        return bool(not shift.any() and self.qkv.absorb_input(scale, shift))  # type: ignore[operator]
