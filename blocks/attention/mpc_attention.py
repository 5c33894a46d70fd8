"""Attention for encrypted inference: each head has one of two substitutes of the softmax that need no exponential.

Paper: arXiv:2211.13955 (MPCViT). Upstream: PKU-SEC-Lab/mpcvit.
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
from blocks.places import refuse_places
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "mpc_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2211.13955",
    covers=("mpcvit", "relu_softmax", "scaling_attention"),
)
class MpcAttention(nn.Module):
    """y = W_o concat_h (alpha_h relu(s_h) / (sum relu(s_h) + eps) + (1 - alpha_h) s_h / L) v_h, s_h = q_h k_h^T / sqrt(head_dim).

    (B, L, C) -> (B, L, C), with [q | k | v] = W_qkv x. alpha is 1, a softmax of ReLUs, or 0, plain scores divided by their number, for
    each head; it stands in the state, since a search has found it, and is not trained. It begins as `alpha`, again and again over the
    heads. Of `num_heads` and `head_dim` one decides; with neither, heads are 32 wide. Raises ValueError when heads do not divide C.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        alpha: Annotated[list[Annotated[int, Meta(ge=0, le=1)]], Meta(min_length=1)] = [1],  # noqa: B006
        eps: Annotated[float, Meta(gt=0)] = 1e-5,
        bias: bool = False,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.eps, self.pattern = eps, tuple(alpha)
        width = self.num_heads * self.head_dim
        self.alpha = nn.Parameter(torch.empty(1, self.num_heads, 1, 1), requires_grad=False)
        self.qkv = linear(dim, 3 * width, bias=bias)
        self.proj = linear(width, dim, bias=True)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        kinds = [self.pattern[head % len(self.pattern)] for head in range(self.num_heads)]
        self.alpha.copy_(torch.tensor(kinds, dtype=self.alpha.dtype).view_as(self.alpha))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L^2 num_heads head_dim."""
        B, L, _ = shape
        return {"matmul": 2 * B * L**2 * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        q, k, v = run(self.qkv, x, ctx).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
        positive = F.relu(scores)
        weights = torch.lerp(
            scores / x.shape[1], positive / (positive.sum(-1, keepdim=True) + self.eps), self.alpha.to(x.dtype)
        )
        return run(self.proj, (weights @ v).transpose(1, 2).flatten(2), ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.qkv.absorb_input(scale, shift))  # type: ignore[operator]
