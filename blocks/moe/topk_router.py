"""The top-k router: a linear score for every expert, the k best taken. Papers: arXiv:1701.06538, arXiv:2101.03961, arXiv:2412.19437.

E is here the number of experts, T the number of tokens, G the number of groups.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from blocks.accumulators import accumulator
from blocks.context import Context
from blocks.moe.routing import Routing
from blocks.moe.scoring import Count, LinearRouter, Weight, share
from blocks.registry import block

LATER = {"added": "0.1"}
BIAS_STEP = 1e-3
"""What a balancing bias moves in one step of training: u of arXiv:2408.15664."""


@block(
    "topk_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2101.03961",
    covers=("top_k_gating",),
)
class TopkRouter(LinearRouter):
    """s = score(W x) over E experts, of W x + c with `gate_bias`; weights = scale * the k largest s, divided by their sum where `renormalise`.

    (B, C, H, W) or (B, L, C) -> Routing of T tokens. Scores are float32. In training, `ctx.losses` gets under its path
    balance = balance_weight * E * sum_i f_i P_i, where f_i is the share of choices that fell on expert i and P_i its
    mean score (each token's scores made to sum to 1), and z = z_weight * mean(logsumexp(W x)^2); a loss of weight 0 is
    left out. `ctx.reports` always gets load (E,) = f and importance (E,) = P, each summing to 1.

    With bias = "balanced" experts are chosen by s + b and weighed by s; `balance_bias` b moves towards even load after
    each step of training (`adapt`), so that balance_weight = 0 will do; it stays in float32 (`blocks.accumulators`). With `groups` the experts stand in G groups of
    neighbours, and only those of the `group_k` groups whose two best sum to most can be chosen. DeepSeek-V3 is score =
    "sigmoid", bias = "balanced", groups = 8, group_k = 4, scale = 2.5 with a `shared` expert in its `moe`. Raises
    ValueError when k exceeds the experts that can be chosen, or the groups do not divide E.
    """

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
        bias: Annotated[Literal["balanced"] | None, Meta(extra_json_schema=LATER)] = None,
        groups: Annotated[int, Meta(ge=1, extra_json_schema=LATER)] = 1,
        group_k: Annotated[int, Meta(ge=1, extra_json_schema=LATER)] = 1,
        scale: Annotated[float, Meta(gt=0, extra_json_schema=LATER)] = 1.0,
        gate_bias: Annotated[bool, Meta(extra_json_schema=LATER)] = False,
    ):
        super().__init__(dim, num_experts, k, balance_weight, z_weight, gate_bias=gate_bias)
        check_groups(num_experts, groups)
        if group_k > groups or k > group_k * (num_experts // groups):
            raise ValueError(
                f"k = {k} experts cannot be chosen among {group_k} of {groups} groups of {num_experts // groups}"
            )
        self.score, self.renormalise, self.scale = score, renormalise, scale
        self.groups, self.group_k = groups, group_k
        self.register_buffer("balance_bias", accumulator(num_experts) if bias else None)
        self.balance_bias: Tensor | None

    accumulators = ("balance_bias",)

    def reset_parameters(self) -> None:
        if self.balance_bias is not None:
            self.balance_bias.zero_()

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        logits = self.logits(x)
        scores = logits.softmax(-1) if self.score == "softmax" else logits.sigmoid()
        if self.balance_bias is None and self.groups == 1:
            weights, indices = scores.topk(int(self.k), -1)
        else:
            indices = self._eligible(scores.detach()).topk(int(self.k), -1).indices
            weights = scores.gather(-1, indices)
        weights = self.scale * (share(weights) if self.renormalise else weights)
        self.tell(ctx, logits, scores if self.score == "softmax" else share(scores), indices)
        return Routing(weights.to(x.dtype), indices)

    def _eligible(self, scores: Tensor) -> Tensor:
        """(T, E) what the choice goes by: scores with their bias, -inf in groups that are out."""
        if self.balance_bias is not None:
            scores = scores + self.balance_bias.to(scores.dtype)
        if self.groups == 1:
            return scores
        grouped = scores.unflatten(-1, (self.groups, -1))
        merit = grouped.topk(min(2, grouped.shape[-1]), -1).values.sum(-1)
        best = merit.topk(self.group_k, -1).indices
        out = torch.ones_like(merit, dtype=torch.bool).scatter(-1, best, 0)
        return grouped.masked_fill(out.unsqueeze(-1), -torch.inf).flatten(-2)

    @torch.no_grad()
    def adapt(self, report: dict[str, Tensor]) -> None:
        """After a step: the bias of experts with less than the mean load rises by 0.001, that of the others falls."""
        if self.balance_bias is not None:
            load = report["load"].to(self.balance_bias)
            self.balance_bias += BIAS_STEP * (load.mean() - load).sign()


def check_groups(num_experts: int, groups: int) -> None:
    """Raises ValueError when the experts do not fall into equal groups."""
    if num_experts % groups:
        near = min((n for n in range(1, num_experts + 1) if num_experts % n == 0), key=lambda n: abs(n - groups))
        raise ValueError(f"groups = {groups} do not divide {num_experts} experts; the nearest that do are {near}")
