"""Task-keyed experts (Task-MoE): all tokens of an example take the way of its task. Paper: arXiv:2110.03742."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blocks.context import Context
from blocks.moe.keys import given_key
from blocks.moe.routing import Routing
from blocks.moe.scoring import Count, ScoringRouter, Weight, share, widened
from blocks.registry import block


@block(
    "task_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2110.03742",
    covers=("task_moe",),
)
class TaskRouter(ScoringRouter):
    """s = softmax(scores[task]); weights = the k largest s, divided by their sum where `renormalise`.

    (B, C, H, W) or (B, L, C) -> Routing (T, k). `scores` (num_tasks, E) is a learned row for each task, whatever the
    tokens are, so a task's experts can be taken out and served alone. The task of each example, (B,) or (B, L) numbers
    from 0 on, is given in ctx under the slot `key`: `Context(slots={"task": {"": ids}})`; without it all are of task 0.
    Losses and report as in `topk_router`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        num_tasks: Count = 1,
        k: Count = 2,
        key: str = "task",
        renormalise: bool = True,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        super().__init__(num_experts, k, balance_weight, z_weight)
        self.key, self.renormalise = key, renormalise
        self.scores = nn.Parameter(torch.empty(num_tasks, num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.scores, std=0.02)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        logits = widened(self.scores)[given_key(ctx, self.key, x, len(self.scores))]
        scores = logits.softmax(-1)
        weights, indices = scores.topk(int(self.k), -1)
        self.tell(ctx, logits, scores, indices)
        return Routing((share(weights) if self.renormalise else weights).to(x.dtype), indices)
