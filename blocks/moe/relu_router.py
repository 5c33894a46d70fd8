"""ReMoE: weights are ReLUs of scores, so how many experts a token meets is learned. Paper: arXiv:2412.14711."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from blocks.accumulators import accumulator
from blocks.context import Context
from blocks.moe.routing import Routing
from blocks.moe.scoring import Count, LinearRouter, hide_padding, real_rows, share
from blocks.registry import block


@block(
    "relu_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2412.14711",
    covers=("remoe",),
)
class ReluRouter(LinearRouter):
    """s = relu(W x); a token goes to every expert with s > 0, weighed by s.

    (B, C, H, W) or (B, L, C) -> Routing of T tokens with E routes each, most of which should lead nowhere. In training
    `ctx.losses` gets l1 = l1_weight * E / (k T^2) * sum_i n_i sum_t s_{t,i}, n_i the tokens of expert i: an L1 norm that
    weighs heavily on crowded experts. `l1_weight` is a buffer that `adapt` multiplies after each step by 1.2 or 1 / 1.2,
    so that tokens come to meet k experts on average. The report has sparsity, the share of scores that are 0; of no tokens
    at all it is the share that is aimed at, 1 - k / E. T are the real tokens (`ctx.mask`).
    """

    growth = 1.2
    accumulators = ("l1_weight",)

    def __init__(self, dim: int, *, num_experts: Count, k: Count = 2, l1_start: Annotated[float, Meta(gt=0)] = 1e-8):
        super().__init__(dim, num_experts, k)
        self.l1_start = l1_start
        self.register_buffer("l1_weight", accumulator().fill_(l1_start))
        self.l1_weight: Tensor

    def reset_parameters(self) -> None:
        self.l1_weight.fill_(self.l1_start)

    def rows_range(self, length: int) -> tuple[int, int]:
        """From no expert to all of them."""
        return 0, self.num_experts * length

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        logits = self.logits(x)
        weights = logits.relu()
        experts = torch.arange(self.num_experts, device=x.device).expand_as(weights)
        indices = torch.where(weights <= 0, -1, experts)  # NaN goes everywhere, and is seen
        self._tell(ctx, logits, weights, indices)
        return Routing(weights.to(x.dtype), indices, expected=self.k / self.num_experts)

    def _tell(self, ctx: Context | None, logits: Tensor, weights: Tensor, indices: Tensor) -> None:
        real = real_rows(ctx, weights.shape[0])
        self.tell(ctx, logits, share(weights), indices)
        if real is not None:
            weights, indices = weights.masked_fill(~real.unsqueeze(-1), 0), hide_padding(indices, real)
        active = (indices >= 0).to(weights.dtype)
        tokens = max(1, weights.shape[0]) if real is None else real.sum().clamp_min(1)
        crowded = (active.sum(0) * weights.sum(0)).sum() * self.num_experts / (self.k * tokens**2)
        if ctx is not None and self.training:
            ctx.losses[self.path] = {"l1": self.l1_weight.to(crowded.dtype) * crowded}
        self.report(ctx, sparsity=self._sparsity(active, real), importance=share(weights.detach().sum(0)))

    def _sparsity(self, active: Tensor, real: Tensor | None) -> Tensor:
        if real is None:
            return 1 - active.mean() if active.shape[0] else active.new_tensor(self.sparsity)
        inactive = 1 - active.sum() / (real.sum() * self.num_experts)
        return torch.where(real.any(), inactive, self.sparsity)

    @property
    def sparsity(self) -> float:
        """The share of scores that should be 0."""
        return 1 - self.k / self.num_experts

    @torch.no_grad()
    def adapt(self, report: dict[str, Tensor]) -> None:
        """After a step: a larger weight of the loss where scores are too seldom 0, else a smaller one."""
        too_dense = torch.sign(self.sparsity - report["sparsity"])
        self.l1_weight *= self.growth ** too_dense.to(self.l1_weight)
