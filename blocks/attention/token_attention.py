"""The attention between T2T-ViT's soft splits: one head that narrows wide tokens, with a skip round the scores instead of round the block.

Paper: arXiv:2101.11986 (section 3.1), arXiv:2009.14794 (random features). Upstream: yitu-opensource/T2T-ViT (Clear BSD).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.ops.linear_attention import linear_attention
from blocks.places import refuse_places
from blocks.primitives.linears import Dense
from blocks.primitives.orthogonal import orthogonal_
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]
Drop = Annotated[float, Meta(ge=0, lt=1)]


@block(
    "token_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2101.11986",
    covers=("t2t_transformer", "t2t_vit"),
)
class TokenAttention(nn.Module):
    """y = v + W_o softmax(q k^T / sqrt(C)) v, [q | k | v] = W_qkv x, each `out_dim` wide.

    (B, L, C) -> (B, L, out_dim). As upstream the scores are scaled by the width of the input, not by that of a query.
    """

    def __init__(self, dim: int, out_dim: int | None = None, *, bias: bool = False):
        super().__init__()
        self.out_dim = out_dim or dim
        self.scale = dim**-0.5
        self.qkv = Dense(dim, 3 * self.out_dim, bias=bias)
        self.proj = Dense(self.out_dim, self.out_dim)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L^2 out_dim."""
        B, L, _ = shape
        return {"attention": 2 * B * L**2 * self.out_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        q, k, v = run(self.qkv, x, ctx).unsqueeze(1).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale).squeeze(1)
        return v.squeeze(1) + run(self.proj, y, ctx)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return self.qkv.absorb_input(scale, shift)


@block(
    "token_performer",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2101.11986",
    covers=("t2t_performer", "t2t_vit"),
)
class TokenPerformer(nn.Module):
    """y = v + drop(W_o (f(q) S / (f(q) z + eps))), S = sum f(k) v^T, z = sum f(k), f(x) = exp(w x - |x|^2 / 2) / sqrt(m).

    (B, L, C) -> (B, L, out_dim), with [k | q | v] = W_kqv x, each `out_dim` wide. w (m, out_dim), m = int(ratio * out_dim), has
    orthogonal rows of length sqrt(m); it is drawn once, stands in the state and is not trained.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        ratio: Annotated[float, Meta(gt=0, le=1)] = 0.5,
        eps: Annotated[float, Meta(gt=0)] = 1e-8,
        bias: bool = True,
        proj_drop: Drop = 0.0,
    ):
        super().__init__()
        self.out_dim = out_dim or dim
        self.eps, self.proj_drop = eps, proj_drop
        self.kqv = Dense(dim, 3 * self.out_dim, bias=bias)
        self.w = nn.Parameter(torch.empty(max(1, int(ratio * self.out_dim)), self.out_dim), requires_grad=False)
        self.proj = Dense(self.out_dim, self.out_dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        orthogonal_(self.w)
        self.w.mul_(math.sqrt(len(self.w)))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Features of q and k, S, f(q) S and f(q) z: L m (4 out_dim + 1)."""
        B, L, _ = shape
        return {"matmul": B * L * len(self.w) * (4 * self.out_dim + 1)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        k, q, v = run(self.kqv, x, ctx).unsqueeze(1).chunk(3, -1)
        wide = torch.promote_types(x.dtype, torch.float32)
        y = linear_attention(self._features(q.to(wide)), self._features(k.to(wide)), v.to(wide), self.eps).to(v.dtype)
        y = run(self.proj, y.squeeze(1), ctx)
        return v.squeeze(1) + F.dropout(y, self.proj_drop, self.training)

    def _features(self, x: Tensor) -> Tensor:
        """(…, out_dim) -> (…, m), positive."""
        projected = x @ self.w.to(x.dtype).T
        return torch.exp(projected - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(self.w))

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return self.kqv.absorb_input(scale, shift)
