"""A router with capacity that serves the best scores first. Paper: arXiv:2106.05974 (batch priority routing)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from torch import Tensor

from blocks.context import Context
from blocks.moe.capacity import CapacityRouter
from blocks.moe.routing import Routing
from blocks.moe.scoring import Count, Weight
from blocks.registry import block


@block(
    "priority_router",
    kind="router",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2106.05974",
    covers=("batch_priority_routing", "v_moe"),
)
class PriorityRouter(CapacityRouter):
    """`switch_router`, whose experts keep the most important of a sequence's tokens instead of the first.

    (B, C, H, W) or (B, L, C) -> Routing. by = "token": all first choices before the second ones, tokens with the largest
    best score first; by = "choice": the largest scores first, whichever choice of its token each is. Not causal: whether
    there is room depends on later tokens.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        k: Count = 2,
        capacity: Annotated[float, Meta(gt=0)] = 1.0,
        by: Literal["token", "choice"] = "token",
        renormalise: bool = False,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        super().__init__(dim, num_experts, k, balance_weight, z_weight)
        self.capacity, self.by, self.renormalise = capacity, by, renormalise

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        return self.route(x, ctx)

    def order(self, weights: Tensor) -> Tensor:
        if self.by == "choice":
            return weights.flatten(1).argsort(dim=-1, descending=True, stable=True)
        tokens = weights[..., :1].argsort(dim=1, descending=True, stable=True)
        k = weights.shape[-1]
        return (tokens * k + tokens.new_tensor(range(k))).transpose(1, 2).flatten(1)
