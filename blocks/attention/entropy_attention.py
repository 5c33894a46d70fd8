"""Attention that tells how evenly its heads look, and a loss that holds their entropies near learned thresholds.

Paper: arXiv:2501.03489 (entropy-guided attention). Upstream: Nandan91/entropy-guided-attention-llm (MIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.attention import Attention, Count
from blocks.context import Context
from blocks.recurrent import tokens_first
from blocks.registry import block
from blocks.registry.slots import Linear, slot

SlotName = Annotated[str, Meta(min_length=1)]
FLOOR = 1e-9
"""What is added to a weight before its logarithm."""


@block(
    "entropy_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "step", "any_resolution"),
    paper="arXiv:2501.03489",
)
class EntropyAttention(Attention):
    """`attention` that in training leaves the entropy -sum_j a_ij log(a_ij + 1e-9) of each row of its weights in the slot `writes` of ctx.

    (B, L, C) -> (B, L, C); entropies (B, num_heads, L), 0 at padding. What is generated token by token tells nothing.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        causal: bool = False,
        bias: bool = False,
        linear: Linear = slot("dense"),
        writes: SlotName = "entropy",
    ):
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim, causal=causal, bias=bias, linear=linear)
        self.writes = writes

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = super().forward(x, ctx)
        told = None if ctx is None or ctx.mask is None else ctx.read(self.writes).get(self.path)
        if ctx is not None and ctx.mask is not None and told is not None:
            if self.causal:  # whose tokens were moved before their padding
                told = told.gather(2, tokens_first(ctx.mask).argsort(1).unsqueeze(1).expand_as(told))
            ctx.write(self.writes, self.path, told.masked_fill(~ctx.mask.bool().unsqueeze(1), 0))
        return y

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gate: Tensor | None,
        visible: Tensor | None,
        is_causal: bool,
        ctx: Context | None,
    ) -> Tensor:
        if self.training and ctx is not None and ctx.state is None and ctx.cu_seqlens is None:
            scores = self.scale * (q.transpose(1, 2) @ k.permute(0, 2, 3, 1))
            if is_causal:
                visible_here = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
                scores = scores.masked_fill(~visible_here, -torch.inf)
            elif visible is not None:
                scores = scores.masked_fill(~visible, -torch.inf)
            ctx.write(self.writes, self.path, row_entropy(scores))
        return super()._attend(q, k, v, gate, visible, is_causal, ctx)


@block(
    "entropy_penalty",
    kind="channel_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2501.03489",
)
class EntropyPenalty(nn.Module):
    """y = x, and in training a loss on the entropies E that attentions before it left: weight * mean_{layers, h} sum_{b, i} d^2 where |d| > margin M.

    d = E - tau_h M with the threshold tau (num_heads,), learned, one for all layers, and M = log L the highest entropy of the L real tokens of
    a sample; other d, and those at padding, count nothing. The sum goes over samples and rows, so that `weight` belongs to a batch.
    (B, L, C) -> (B, L, C).
    """

    path = ""
    unreached = ("thresholds",)
    """Without attentions that tell their entropies nothing is learned."""

    def __init__(
        self,
        *,
        num_heads: Count = 12,
        weight: Annotated[float, Meta(ge=0)] = 1e-5,
        margin: Annotated[float, Meta(ge=0)] = 0.2,
        reads: SlotName = "entropy",
    ):
        super().__init__()
        self.weight, self.margin, self.reads = weight, margin, reads
        self.thresholds = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.thresholds, 0.5)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        entropies = list(ctx.read(self.reads).values()) if ctx is not None and self.training else []
        if ctx is not None and entropies:
            loss = entropy_loss(entropies, self.thresholds, self.margin, ctx.mask)
            ctx.losses[self.path] = {"entropy": self.weight * loss}
        return x


def row_entropy(scores: Tensor) -> Tensor:
    """-sum_j a_ij log(a_ij + 1e-9), a the softmax of scores (…, L, M) -> (…, L); a score of -inf is a token that is not seen."""
    weights = scores.softmax(-1)
    return -(weights * (weights + FLOOR).log()).sum(-1)


def entropy_loss(entropies: list[Tensor], thresholds: Tensor, margin: float, mask: Tensor | None = None) -> Tensor:
    """The mean over layers and heads of sum_{b, i} d^2 where |d| > margin log L: entropies (B, H, L) of each layer, thresholds (H,).

    With a mask (B, L), True at real tokens, these alone count, and a sample's L is the number of its own."""
    told = torch.stack(entropies)
    real = torch.ones_like(told[0, :, 0], dtype=torch.bool) if mask is None else mask.bool()
    most = real.sum(1).clamp_min(1).to(told.dtype).log()[:, None, None]
    away = told - thresholds[:, None] * most
    counts = (away.abs() > margin * most) & real[:, None]
    return away.square().where(counts, 0).sum((1, 3)).mean()
