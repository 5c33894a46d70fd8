"""Grouped experts (MoGE, Pangu Pro): as many experts of each group, so that the devices that hold them carry the same. Paper: arXiv:2505.21411."""

from __future__ import annotations

from torch import Tensor

from blocks.context import Context
from blocks.moe.routing import Routing
from blocks.moe.scoring import Count, LinearRouter, Weight, share
from blocks.moe.topk_router import check_groups
from blocks.registry import block


@block(
    "grouped_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2505.21411",
    covers=("moge",),
)
class GroupedRouter(LinearRouter):
    """s = softmax(W x) over all experts; of each of the G groups of neighbours the k / G experts with the largest s.

    (B, C, H, W) or (B, L, C) -> Routing (T, k). The load of groups is exactly even. weights are the scores, divided by
    their sum where `renormalise`. Losses and report as in `topk_router`. Raises ValueError when the groups do not divide
    E or k.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        groups: Count = 2,
        k: Count = 2,
        renormalise: bool = False,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        super().__init__(dim, num_experts, k, balance_weight, z_weight)
        check_groups(num_experts, groups)
        if k % groups:
            near = max(groups, k // groups * groups)
            raise ValueError(
                f"k = {k} experts cannot be spread evenly over {groups} groups; the nearest that can is {near}"
            )
        self.groups, self.renormalise = groups, renormalise

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        logits = self.logits(x)
        scores = logits.softmax(-1)
        size = self.num_experts // self.groups
        best, places = scores.unflatten(-1, (self.groups, size)).topk(int(self.k) // self.groups, -1)
        starts = places.new_tensor(range(0, self.num_experts, size)).unsqueeze(-1)
        weights, indices = best.flatten(1), (places + starts).flatten(1)
        self.tell(ctx, logits, scores, indices)
        return Routing((share(weights) if self.renormalise else weights).to(x.dtype), indices)
