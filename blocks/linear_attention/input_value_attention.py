"""Linear attention whose values are its input: only queries and keys are learned maps, and a small convolution says what is where.

Papers: arXiv:2412.19628 (RecNeXt), arXiv:2405.16605 (MLLA). Upstream: suous/RecNeXt (Apache-2.0).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.conv.conv import ConvNormAct
from blocks.registry import block
from blocks.registry.slots import Norm, Slot, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "input_value_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2412.19628",
    covers=("mamba_like_linear_attention", "mlla", "recnext"),
)
class InputValueAttention(nn.Module):
    """y = local(x) + concat_h (q_h sum k_h x_h^T / L) / (q_h sum k_h / L + eps), [q | k] = elu(norm(W x)) + 1.

    (B, C, H, W) -> (B, C, H, W), L = H W. W is pointwise with `groups`; with two, queries see one half of the channels and keys the
    other. Where there are fewer positions than channels in a head, the scores q k^T are made, which is the same and less work.
    Sums are taken in float32 at least. Raises ValueError when heads or groups do not divide the width.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        groups: Count = 2,
        eps: Annotated[float, Meta(gt=0)] = 1e-6,
        norm: Norm | None = slot("batch_norm"),
        local: Slot | None = slot("depthwise_conv", kernel_size=3, bias=False, norm="batch_norm"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.eps = eps
        self.qk = ConvNormAct(dim, 2 * dim, kernel_size=1, groups=groups, bias=norm is None, norm=norm)
        self.local = local(dim) if local else None

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Sums of keys times values, and queries times these and times the sums of keys; or scores, and scores times values."""
        batch, length = shape[0] * self.num_heads, math.prod(shape[2:])
        few = length < self.head_dim
        return {"matmul": batch * length * self.head_dim * (2 * length if few else 2 * self.head_dim + 1)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = attended(self.qk(x), x, self.num_heads, self.eps)
        return y if self.local is None else y + run(self.local, x, ctx)


def attended(qk: Tensor, x: Tensor, num_heads: int, eps: float) -> Tensor:
    """(B, 2 C, H, W) before the feature map, (B, C, H, W) -> (B, C, H, W): what the heads make of the values x."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    q, k = (F.elu(_heads(half, num_heads).to(dtype)) + 1 for half in qk.chunk(2, 1))
    v = _heads(x, num_heads).to(dtype)
    length, head_dim = v.shape[-2:]
    if length < head_dim:
        scores = q @ k.transpose(-1, -2)
        y = (scores / (scores.mean(-1, keepdim=True) + eps) / length) @ v
    else:
        weight = q @ k.mean(-2).unsqueeze(-1) + eps
        y = (q @ (k.transpose(-1, -2) @ (v / length))) / weight
    return y.transpose(1, 2).flatten(2).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2).to(x.dtype)


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, C, H, W) -> (B, heads, H W, C / heads), a view where x is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (num_heads, -1)).transpose(1, 2)
