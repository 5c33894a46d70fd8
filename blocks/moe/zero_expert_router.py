"""Zero-computation experts (LongCat-Flash): some choices leave the token as it is, so that easy tokens cost less. Paper: arXiv:2509.01322."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from blocks.accumulators import accumulator
from blocks.context import Context
from blocks.moe.routing import Routing
from blocks.moe.scoring import Count, LinearRouter, Weight
from blocks.moe.topk_router import BIAS_STEP
from blocks.registry import block


@block(
    "zero_expert_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2509.01322",
    covers=("zero_computation_experts",),
)
class ZeroExpertRouter(LinearRouter):
    """s = softmax(W x) over E experts and Z = `zero_experts` that return the token; weights = scale * s of the k with the largest s + b.

    (B, C, H, W) or (B, L, C) -> Routing (T, k), an index from E on leaving the token as it is. `balance_bias` b evens out
    the load of the E experts after each step of training (`adapt`) and keeps that of the zero ones. Losses and report as
    in `topk_router`, over E + Z outcomes. A token is expected to meet k E / (E + Z) experts.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        zero_experts: Count = 1,
        k: Count = 2,
        scale: Annotated[float, Meta(gt=0)] = 1.0,
        balance_weight: Weight = 0.0,
        z_weight: Weight = 0.001,
    ):
        super().__init__(dim, num_experts, 1, balance_weight, z_weight, outcomes=num_experts + zero_experts)
        outcomes = num_experts + zero_experts
        if k > outcomes:
            raise ValueError(f"k = {k} cannot be chosen among {outcomes}; the nearest that can is {outcomes}")
        self.choices, self.scale = k, scale
        self.k = k * num_experts / outcomes
        self.register_buffer("balance_bias", accumulator(outcomes))
        self.balance_bias: Tensor

    accumulators = ("balance_bias",)

    def reset_parameters(self) -> None:
        self.balance_bias.zero_()

    def rows_range(self, length: int) -> tuple[int, int]:
        """Fewest: as many choices as there are zero experts fall on them. Most: none does."""
        zero = self.balance_bias.shape[0] - self.num_experts
        return max(0, self.choices - zero) * length, min(self.choices, self.num_experts) * length

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        logits = self.logits(x)
        scores = logits.softmax(-1)
        indices = (scores.detach() + self.balance_bias.to(scores.dtype)).topk(self.choices, -1).indices
        weights = self.scale * scores.gather(-1, indices)
        self.tell(ctx, logits, scores, indices)
        return Routing(weights.to(x.dtype), indices, stays=True, expected=self.k / self.choices)

    @torch.no_grad()
    def adapt(self, report: dict[str, Tensor]) -> None:
        """After a step: the bias of experts with less than their mean load rises by 0.001, that of the others falls."""
        load = report["load"][: self.num_experts].to(self.balance_bias)
        self.balance_bias[: self.num_experts] += BIAS_STEP * (load.mean() - load).sign()
