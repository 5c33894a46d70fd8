"""The Switch router: one expert for each token, first come first served. Paper: arXiv:2101.03961."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from blocks.context import Context
from blocks.moe.capacity import CapacityRouter
from blocks.moe.routing import Routing
from blocks.moe.scoring import Count, Weight
from blocks.registry import block


@block(
    "switch_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2101.03961",
    covers=("switch_transformer",),
)
class SwitchRouter(CapacityRouter):
    """s = softmax(W x); the k best experts, as long as each has taken fewer than ceil(capacity * L * k / E) of a sequence.

    (B, C, H, W) or (B, L, C) -> Routing. All first choices come before the second ones, and among them earlier positions
    before later ones; so no token depends on later ones, but how many tokens there will be must be known: decoded token by
    token, nothing is dropped. Each sequence has its own room. weights are the scores, divided by their sum where
    `renormalise`. Losses as in `topk_router`; the report counts `dropped` choices.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        k: Count = 1,
        capacity: Annotated[float, Meta(gt=0)] = 1.25,
        renormalise: bool = False,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        super().__init__(dim, num_experts, k, balance_weight, z_weight)
        self.capacity, self.renormalise = capacity, renormalise

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        return self.route(x, ctx)

    def order(self, weights: Tensor) -> Tensor:
        B, L, k = weights.shape
        return torch.arange(L * k, device=weights.device).view(L, k).T.flatten().expand(B, -1)
