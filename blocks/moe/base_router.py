"""BASE layers: in training tokens are assigned so that every expert gets the same number. Papers: arXiv:2103.16716, arXiv:2202.01169."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from blocks.context import Context
from blocks.moe.balanced_assignment import balanced_assignment, sinkhorn
from blocks.moe.routing import Routing
from blocks.moe.scoring import Count, LinearRouter, real_rows, share
from blocks.registry import block


@block(
    "base_router",
    kind="router",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2103.16716",
    covers=("base_layers", "s_base"),
)
class BaseRouter(LinearRouter):
    """s = W x; each token goes to one expert e, weighed by sigmoid(s_e), without a loss for balance.

    (B, C, H, W) or (B, L, C) -> Routing (T, 1). In training `balance` assigns the batch: "auction", every expert at most
    ceil(T / E) tokens and the sum of s nearly the largest; "sinkhorn", the best expert after Sinkhorn's normalisation,
    nearly even and cheaper. Otherwise each token goes to its best expert. T are the real tokens (`ctx.mask`). Not causal: in
    training an assignment depends on all tokens of the batch.
    """

    def __init__(self, dim: int, *, num_experts: Count, balance: Literal["auction", "sinkhorn"] = "auction"):
        super().__init__(dim, num_experts, 1)
        self.balance = balance

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        logits = self.logits(x)
        indices = self._assigned(logits.detach(), real_rows(ctx, logits.shape[0])).unsqueeze(-1)
        self.tell(ctx, logits, share(logits.sigmoid()), indices)
        return Routing(logits.gather(-1, indices).sigmoid().to(x.dtype), indices)

    def _assigned(self, scores: Tensor, real: Tensor | None) -> Tensor:
        best = scores.argmax(-1)
        if not self.training or scores.is_meta or torch.compiler.is_exporting():
            return best
        if real is None:
            return self._balanced(scores)
        best[real] = self._balanced(scores[real])
        return best

    def _balanced(self, scores: Tensor) -> Tensor:
        return balanced_assignment(scores) if self.balance == "auction" else sinkhorn(scores).argmax(-1)
