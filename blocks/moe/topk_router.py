"""The top-k router: a linear score for every expert, the k best taken. Papers: arXiv:1701.06538, arXiv:2101.03961.

E is here the number of experts, T the number of tokens.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.moe.routing import Routing, as_rows
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(ge=0)]


@block("topk_router", kind="router", abilities=("any_resolution",), paper="arXiv:2101.03961")
class TopkRouter(nn.Module):
    """s = score(W x) over E experts; weights = the k largest s, divided by their sum where `renormalise`.

    (B, C, H, W) or (B, L, C) -> Routing of T tokens. Scores are float32. In training, `ctx.losses` gets under its path
    balance = balance_weight * E * sum_i f_i P_i, where f_i is the share of choices that fell on expert i and P_i its
    mean score (each token's scores made to sum to 1), and z = z_weight * mean(logsumexp(W x)^2); a loss of weight 0 is
    left out. `ctx.reports` always gets load (E,) = f and importance (E,) = P, each summing to 1. Raises ValueError when
    k exceeds E.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        k: Count = 2,
        score: Literal["softmax", "sigmoid"] = "softmax",
        renormalise: bool = True,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        super().__init__()
        if k > num_experts:
            raise ValueError(
                f"k = {k} experts cannot be chosen among {num_experts}; the nearest that can is {num_experts}"
            )
        self.num_experts, self.k = num_experts, k
        self.score, self.renormalise = score, renormalise
        self.balance_weight, self.z_weight = balance_weight, z_weight
        self.gate = nn.Linear(dim, num_experts, bias=False)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """A score for each token and expert; the map runs in float32 and therefore not as a layer."""
        return {"matmul": math.prod(shape) * self.num_experts}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        rows = as_rows(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        logits = F.linear(rows.to(wide), self.gate.weight.to(wide))
        scores = logits.softmax(-1) if self.score == "softmax" else logits.sigmoid()
        weights, indices = scores.topk(self.k, -1)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        if ctx is not None:
            self._tell(ctx, logits, scores, indices)
        return Routing(weights.to(x.dtype), indices)

    def _tell(self, ctx: Context, logits: Tensor, scores: Tensor, indices: Tensor) -> None:
        chosen = torch.ones_like(indices, dtype=logits.dtype).flatten()
        load = logits.new_zeros(self.num_experts).index_add(0, indices.flatten(), chosen) / max(1, indices.numel())
        shares = scores if self.score == "softmax" else scores / scores.sum(-1, keepdim=True)
        importance = shares.mean(0)
        ctx.reports[self.path] = {"load": load, "importance": importance.detach()}
        if self.training:
            losses = {
                "balance": (self.balance_weight, self.num_experts * (load * importance).sum()),
                "z": (self.z_weight, logits.logsumexp(-1).square().mean()),
            }
            ctx.losses[self.path] = {name: weight * loss for name, (weight, loss) in losses.items() if weight}
