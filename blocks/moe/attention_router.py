"""The attention router of Yuan 2.0-M32: experts attend to each other before they are chosen. Paper: arXiv:2405.17976."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.moe.routing import Routing, as_rows
from blocks.moe.scoring import Count, ScoringRouter, Weight, share, widened
from blocks.registry import block


@block("attention_router", kind="router", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:2405.17976")
class AttentionRouter(ScoringRouter):
    """q, k, v = W_q x, W_k x, W_v x in R^E; s = softmax(q k^T) v; weights = the k largest of softmax(s).

    (B, C, H, W) or (B, L, C) -> Routing of T tokens. q k^T is E x E for each token: how experts go together. Weights are
    divided by their sum where `renormalise`. Losses and report as in `topk_router`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        k: Count = 2,
        renormalise: bool = True,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        super().__init__(num_experts, k, balance_weight, z_weight)
        self.renormalise = renormalise
        self.query = nn.Linear(dim, num_experts, bias=False)
        self.key = nn.Linear(dim, num_experts, bias=False)
        self.value = nn.Linear(dim, num_experts, bias=False)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Three scores for each token and expert; the mixing of experts is E x E for each token."""
        dim = self.query.in_features
        return {"matmul": math.prod(shape) // dim * self.num_experts * (3 * dim + self.num_experts)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        rows = widened(as_rows(x))
        q, k, v = (F.linear(rows, widened(part.weight)).unsqueeze(-1) for part in (self.query, self.key, self.value))
        logits = ((q * k.transpose(1, 2)).softmax(-1) @ v).squeeze(-1)
        scores = logits.softmax(-1)
        weights, indices = scores.topk(int(self.k), -1)
        self.tell(ctx, logits, scores, indices)
        return Routing((share(weights) if self.renormalise else weights).to(x.dtype), indices)
