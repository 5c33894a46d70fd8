"""HyperRouter: the router's weights come from a frozen network, of which only the input is trained. Paper: arXiv:2312.07035."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.moe.routing import Routing, as_rows
from blocks.moe.scoring import Count, ScoringRouter, Weight, widened
from blocks.registry import block


@block(
    "hyper_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2312.07035",
    covers=("hyperrouter",),
)
class HyperRouter(ScoringRouter):
    """[W | b] = hypernet(embedding); s = W x + b; the k largest s, their softmax as weights.

    (B, C, H, W) or (B, L, C) -> Routing of T tokens. `hypernet`, two linear layers with a ReLU between, keeps its random
    weights; `embedding` (1, C) is trained. Losses and report as in `topk_router`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        k: Count = 2,
        hidden_dim: Count = 256,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        super().__init__(num_experts, k, balance_weight, z_weight)
        self.embedding = nn.Parameter(torch.empty(1, dim))
        self.hypernet = nn.Sequential(
            nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, num_experts * (dim + 1))
        ).requires_grad_(False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """A score for each token and expert."""
        return {"matmul": math.prod(shape) * self.num_experts}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        generated = widened(self.hypernet(self.embedding)).view(self.num_experts, -1)
        logits = F.linear(widened(as_rows(x)), generated[:, :-1], generated[:, -1])
        best, indices = logits.topk(int(self.k), -1)
        self.tell(ctx, logits, logits.softmax(-1), indices)
        return Routing(best.softmax(-1).to(x.dtype), indices)
