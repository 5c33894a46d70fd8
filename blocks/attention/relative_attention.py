"""Attention whose scores have a part for how far two tokens are from each other. Papers: arXiv:1901.02860 (Transformer-XL), arXiv:2206.00888."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "relative_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution", "1d"),
    paper="arXiv:1901.02860",
    covers=("transformer_xl_attention", "relative_position_attention"),
)
class RelativeAttention(nn.Module):
    """y_i = W_o concat_h sum_j softmax_j(((q_i + u) k_j^T + (q_i + v) (W_p r_{i-j})^T) / sqrt(head_dim)) v_j, u and v (H, head_dim) learned.

    r_d holds sin and cos of d 10000^(-2 n / C), n = 0 ... C / 2 - 1, side by side. (B, L, C) -> (B, L, C), of any length.
    `ctx.mask` keeps padding out. Raises ValueError for an odd width and when heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if dim % 2:
            raise ValueError(f"sines and cosines come in pairs, and {dim} channels are odd; {dim + 1} would do")
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        width = self.num_heads * self.head_dim
        self.q, self.k, self.v = (linear(dim, width, bias=bias) for _ in range(3))
        self.positions = linear(dim, width, bias=False)
        self.u, self.w = (nn.Parameter(torch.empty(self.num_heads, self.head_dim)) for _ in range(2))
        self.proj = linear(width, dim, bias=bias)
        self.reset_parameters()

    no_decay = ("u", "w")

    def reset_parameters(self) -> None:
        for bias in (self.u, self.w):
            nn.init.trunc_normal_(bias, std=0.02)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores by content, by distance (2 L - 1 of them), and sums."""
        B, L, _ = shape
        width = self.num_heads * self.head_dim
        return {"matmul": B * L * (2 * L + max(2 * L - 1, 0)) * width}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "which attention to both sides cannot keep")
        mask, L = token_mask(x, ctx), x.shape[1]
        q, k, v = (run(m, x, ctx).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        r = run(self.positions, sinusoids(L, x)).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        by_content = (q + self.u.unsqueeze(1)) @ k.mT
        by_distance = shifted((q + self.w.unsqueeze(1)) @ r.mT)
        scores = (by_content + by_distance) * self.head_dim**-0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        y = scores.softmax(-1) @ v
        return run(self.proj, y.transpose(1, 2).flatten(2), ctx)


def sinusoids(length: int, like: Tensor) -> Tensor:
    """(2 length - 1, C): r_d of the distances d = length - 1 down to 1 - length, in float32 at least."""
    wide, dim = torch.promote_types(like.dtype, torch.float32), like.shape[-1]
    away = (
        torch.arange(length - 1, -length, -1, device=like.device, dtype=wide)
        if length
        else like.new_empty(0, dtype=wide)
    )
    turns = 10000.0 ** (-torch.arange(0, dim, 2, device=like.device, dtype=wide) / dim)
    angle = away.unsqueeze(1) * turns
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).to(like.dtype)


def shifted(scores: Tensor) -> Tensor:
    """(B, H, L, 2 L - 1) by distance, from L - 1 down, -> (B, H, L, L) by key: row i is read from its column L - 1 - i on."""
    B, H, L, N = scores.shape
    if not L:
        return scores.new_empty(B, H, 0, 0)
    padded = nn.functional.pad(scores, (1, 0)).view(B, H, N + 1, L)
    return padded[:, :, 1:].reshape(B, H, L, N)[..., :L]
