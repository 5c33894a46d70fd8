"""Union of Experts: an MLP cut into experts, each of which takes the half of a sequence that its route is largest for. Paper: arXiv:2503.02495.

E is here the number of experts.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from blocks.context import Context
from blocks.moe.routing import Routing, as_sequences, shape_of
from blocks.moe.scoring import Count, LinearRouter, Weight
from blocks.ops.masks import token_mask
from blocks.registry import block

EPS = 1e-6
"""Added to the sum over samples by which routes are divided."""


@block(
    "union_router",
    kind="router",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2503.02495",
    covers=("union_of_experts", "uoe"),
)
class UnionRouter(LinearRouter):
    """p = softmax_E(W x + b), of which a token keeps the k largest; route = p / (sum of p over the samples of the batch + 1e-6) int(c B).

    (B, C, H, W) or (B, L, C) -> Routing with weights 1, which have the gradient of the routes: each expert takes the L // 2 tokens of
    each sample with the largest routes, some of route 0 where fewer keep it; tokens that none takes get 0. The sum is over the samples
    at the same position and expert, so that where a token goes depends on its batch, as in the authors' code. c is `capacity`.
    `ctx.mask` keeps padding out, and L is then the number of real tokens. Losses and report as in `topk_router`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        k: Count = 2,
        capacity: Annotated[float, Meta(gt=0)] = 1.0,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        super().__init__(dim, num_experts, k, balance_weight, z_weight, gate_bias=True)
        self.capacity = capacity

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        logits = self.logits(x)
        scores = logits.softmax(-1)
        B, L = shape_of(x)
        best = scores.topk(int(self.k), -1)
        kept = torch.zeros_like(scores).scatter(-1, best.indices, best.values).view(B, L, self.num_experts)
        mask = token_mask(as_sequences(x), ctx)
        kept = kept if mask is None else kept.masked_fill(~mask.bool().unsqueeze(-1), 0)
        routes = self.routes(kept)
        if mask is not None:
            routes = routes.masked_fill(~mask.bool().unsqueeze(-1), -1)
        positions = (
            self.order(kept, routes).transpose(1, 2).argsort(dim=-1, descending=True, stable=True)[..., : L // 2]
        )
        best_routes = routes.transpose(1, 2).gather(-1, positions)
        experts = torch.arange(self.num_experts, device=x.device).view(1, -1, 1).expand_as(positions)
        indices = experts.masked_fill(best_routes < 0, -1)
        if mask is not None:  # half of the real tokens
            most = (mask.bool().sum(-1) // 2).view(B, 1, 1)
            indices = indices.masked_fill(torch.arange(L // 2, device=x.device) >= most, -1)
        tokens = positions + L * torch.arange(B, device=x.device).view(B, 1, 1)
        self.tell(ctx, logits, scores, indices)
        shares = best_routes - best_routes.detach()
        return Routing((1 + shares).to(x.dtype), indices, tokens)

    def routes(self, kept: Tensor) -> Tensor:
        """(B, L, E) of the p that are kept, the others 0."""
        batch = kept.shape[0]
        room = batch if self.capacity == 1 else int(self.capacity * batch)
        return kept / (kept.sum(0, keepdim=True) + EPS) * room

    def order(self, kept: Tensor, routes: Tensor) -> Tensor:
        """(B, L, E) in the order of the routes, of equal ones the first first: what a sample has against what the others have, and for routes of 0
        numbers below 0. Routes themselves are all but 1 in a batch of one sample, where float32 tells hardly any of them apart."""
        against = kept / (kept.sum(0, keepdim=True) - kept + EPS)
        length = kept.shape[1]
        last = -(torch.arange(length, device=kept.device) + 1).to(kept.dtype) / (length + 1)
        return torch.where(routes < 0, -1.0, torch.where(kept > 0, against, last.view(1, -1, 1)))
