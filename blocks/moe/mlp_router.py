"""A router with a hidden layer. Paper: arXiv:2412.12953."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from blocks.context import Context
from blocks.moe.routing import Routing, as_rows
from blocks.moe.scoring import Count, LinearRouter, Weight, share, widened
from blocks.primitives.linears import Dense
from blocks.registry import block


@block(
    "mlp_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2412.12953",
    covers=("mode_router",),
)
class MlpRouter(LinearRouter):
    """s = softmax(W_2 gelu(W_1 x + b_1) + b_2); the k largest s are the weights, divided by their sum where `renormalise`.

    (B, C, H, W) or (B, L, C) -> Routing of T tokens. The hidden width is `hidden_dim`, or 2 C without one. Scores are float32. Losses and
    report as in `topk_router`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        k: Count = 2,
        hidden_dim: Count | None = None,
        renormalise: bool = True,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        width = hidden_dim or 2 * dim
        super().__init__(width, num_experts, k, balance_weight, z_weight, gate_bias=True)
        self.hidden, self.renormalise = Dense(dim, width), renormalise

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """A score for each token and expert; the hidden layer counts as a layer."""
        tokens = math.prod(shape) // (shape[1] if len(shape) == 4 else shape[-1])
        return {"matmul": tokens * self.gate.in_features * self.gate.out_features}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        hidden = F.gelu(self.hidden(as_rows(x)))
        logits = F.linear(widened(hidden), widened(self.gate.weight), widened(self.gate.bias))
        scores = logits.softmax(-1)
        weights, indices = scores.topk(int(self.k), -1)
        self.tell(ctx, logits, scores, indices)
        return Routing((share(weights) if self.renormalise else weights).to(x.dtype), indices)
