"""Bi-level routing (SMILE): first a group of experts, then an expert of that group. Paper: arXiv:2212.05191."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.moe.routing import Routing, as_rows
from blocks.moe.scoring import Count, LinearRouter, Weight, hide_padding, load_of, real_rows, widened
from blocks.moe.topk_router import check_groups
from blocks.ops.masks import mean_over
from blocks.registry import block


@block(
    "bilevel_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2212.05191",
    covers=("smile",),
)
class BilevelRouter(LinearRouter):
    """p = softmax(W_group x) over G groups, q = softmax(W x) within the best group i; weights = p_i q_j, k experts j of i.

    (B, C, H, W) or (B, L, C) -> Routing (T, k). A group is what one machine holds: a token leaves for one machine only.
    In training `ctx.losses` gets groups = group_weight * G * sum_i f_i P_i over the groups, and balance =
    balance_weight * E / G * sum_j f_j Q_j with the shares of choices and the mean scores within the chosen groups, both
    summing to 1 over all experts. The report has group_load (G,) beside load and importance.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        groups: Count = 2,
        k: Count = 1,
        group_weight: Weight = 0.005,
        balance_weight: Weight = 0.005,
        z_weight: Weight = 0.0,
    ):
        check_groups(num_experts, groups)
        super().__init__(dim, num_experts, k, balance_weight, z_weight)
        size = num_experts // groups
        if k > size:
            raise ValueError(f"k = {k} experts cannot be chosen in a group of {size}; the nearest that can is {size}")
        self.groups, self.size, self.group_weight = groups, size, group_weight
        self.group_gate = nn.Linear(dim, groups, bias=False)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """A score for each token and group, and for each token and expert."""
        experts = super().macs(shape)["matmul"]
        return {"matmul": experts + experts // self.num_experts * self.groups}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        group_logits = F.linear(widened(as_rows(x)), widened(self.group_gate.weight))
        logits = self.logits(x)
        p, group = group_logits.softmax(-1).max(-1, keepdim=True)
        within = logits.unflatten(-1, (self.groups, self.size)).softmax(-1)
        q = within.gather(1, group.unsqueeze(-1).expand(-1, 1, self.size)).squeeze(1)
        best, places = q.topk(int(self.k), -1)
        indices = group * self.size + places
        self._tell(ctx, group_logits, logits, group, within, indices)
        return Routing((p * best).to(x.dtype), indices)

    def _tell(
        self, ctx: Context | None, group_logits: Tensor, logits: Tensor, group: Tensor, within: Tensor, indices: Tensor
    ) -> None:
        real = real_rows(ctx, logits.shape[0])
        load = load_of(hide_padding(group, real), self.groups, logits.dtype)
        groups = self.groups * (load * mean_over(group_logits.softmax(-1), real)).sum()
        chosen = F.one_hot(group.squeeze(-1), self.groups).unsqueeze(-1) * within
        # the base multiplies by E: the paper's factor is the size of a group
        self.tell(ctx, logits, chosen.flatten(1) / self.groups, indices, groups=(self.group_weight, groups))
        self.report(ctx, group_load=load, importance=mean_over(chosen.flatten(1).detach(), real))
