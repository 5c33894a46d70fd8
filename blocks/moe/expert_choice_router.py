"""Expert choice: each expert takes the tokens that suit it best. Paper: arXiv:2202.09368."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from blocks.context import Context
from blocks.moe.capacity import capacities, capacity_of
from blocks.moe.routing import Routing, as_sequences, shape_of
from blocks.moe.scoring import Count, LinearRouter, Weight, real_rows
from blocks.ops.masks import token_mask
from blocks.registry import block


@block(
    "expert_choice_router",
    kind="router",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2202.09368",
    covers=("expert_choice",),
)
class ExpertChoiceRouter(LinearRouter):
    """s = softmax_E(W x); each expert takes the ceil(k L / E) tokens of a sequence with its largest s, weighed by s.

    (B, C, H, W) or (B, L, C) -> Routing with weights, indices and tokens (B, E, ceil(k L / E)). Load is even by
    construction; a token meets k experts on average, any number of them and perhaps none. `ctx.mask` keeps padding out, and
    L is then the number of real tokens of a sequence.
    The report has missed, the number of tokens that no expert took. Not causal: a token is taken or not depending on
    later ones.
    """

    def __init__(
        self, dim: int, *, num_experts: Count, k: Annotated[float, Meta(gt=0)] = 2.0, z_weight: Weight = 0.001
    ):
        super().__init__(dim, num_experts, 1, 0.0, z_weight)
        self.k = min(k, num_experts)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        logits = self.logits(x)
        scores = logits.softmax(-1)
        by_expert = scores.view(*shape_of(x), self.num_experts).transpose(1, 2)
        B, E, L = by_expert.shape
        mask = token_mask(as_sequences(x), ctx)
        if mask is not None:
            by_expert = by_expert.masked_fill(~mask.bool().unsqueeze(1), -1.0)
        weights, positions = by_expert.topk(min(L, capacity_of(L, self.k, E, 1.0)), -1)
        indices = torch.arange(E, device=x.device).view(1, E, 1).expand_as(positions)
        if mask is not None:  # each sequence has as much room as its real tokens make
            rank = torch.arange(positions.shape[-1], device=x.device)
            room = capacities(mask, self.k, E, 1.0).unsqueeze(-1)
            indices = indices.masked_fill((rank >= room) | (weights < 0), -1)
        tokens = positions + L * torch.arange(B, device=x.device).view(B, 1, 1)
        self.tell(ctx, logits, scores, indices)
        self.report(ctx, missed=_missed(tokens, indices >= 0, B * L, real_rows(ctx, B * L)))
        return Routing(weights.to(x.dtype), indices, tokens)


def _missed(tokens: Tensor, taken: Tensor, count: int, real: Tensor | None) -> Tensor:
    """How many of `count` tokens, of those that are `real`, were not taken."""
    times = torch.zeros(count, dtype=torch.int64, device=tokens.device)
    missed = times.index_add(0, tokens.flatten(), taken.flatten().to(torch.int64)) == 0
    return (missed if real is None else missed & real).sum()
