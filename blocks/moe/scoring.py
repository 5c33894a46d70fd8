"""What routers have in common: a linear score for every expert, and what they tell of themselves in ctx.

E is here the number of experts, T the number of tokens, R the number of choices.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.accumulators import Accumulating
from blocks.context import Context
from blocks.moe.routing import as_rows
from blocks.ops.masks import mean_over

Count = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(ge=0)]


class ScoringRouter(Accumulating):
    """Base of the routers that score tokens: the attributes that every router has, and its report.

    `ctx.reports` always gets under the router's path load (E,) = f, the share of choices that fell on each expert, and
    importance (E,) = P, the mean score, each summing to 1. In training `ctx.losses` gets balance = balance_weight * E *
    sum_i f_i P_i, and z = z_weight * mean(logsumexp(logits)^2); a loss of weight 0 is left out. All of them are over real
    tokens (`ctx.mask`); where there are none, they are 0. Raises ValueError when k exceeds E.
    """

    path = ""

    def __init__(self, num_experts: int, k: int, balance_weight: float = 0.0, z_weight: float = 0.0):
        super().__init__()
        if k > num_experts:
            raise ValueError(
                f"k = {k} experts cannot be chosen among {num_experts}; the nearest that can is {num_experts}"
            )
        self.num_experts: int = num_experts
        self.k: float = k
        self.balance_weight, self.z_weight = balance_weight, z_weight

    def tell(
        self, ctx: Context | None, logits: Tensor, shares: Tensor, indices: Tensor, **more: tuple[float, Tensor]
    ) -> None:
        """`logits` (T, E); `shares` (T, E), the scores, each token's summing to 1; `indices`, -1 for a choice that leads nowhere:
        (T, k), or of any other shape if those of padding are -1 already.

        `more` are further losses of the router, by name: (weight, value).
        """
        if ctx is None:
            return
        real = real_rows(ctx, logits.shape[0])
        load = load_of(hide_padding(indices, real), shares.shape[-1], logits.dtype)
        importance = mean_over(shares, real)
        ctx.reports[self.path] = {"load": load, "importance": importance.detach()}
        if self.training:
            losses = {
                "balance": (self.balance_weight, shares.shape[-1] * (load * importance).sum()),
                "z": (self.z_weight, mean_over(logits.logsumexp(-1).square(), real)),
                **more,
            }
            ctx.losses[self.path] = {name: weight * loss for name, (weight, loss) in losses.items() if weight}

    def report(self, ctx: Context | None, **figures: Tensor) -> None:
        """Adds figures to the report of this pass."""
        if ctx is not None:
            ctx.reports[self.path] = {**ctx.reports.get(self.path, {}), **figures}


class LinearRouter(ScoringRouter):
    """A scoring router with s = W x, W the weight (E, C) of `gate`, or W x + b with `gate_bias`. `outcomes`: rows of W where there are more
    than experts."""

    def __init__(
        self,
        dim: int,
        num_experts: int,
        k: int,
        balance_weight: float = 0.0,
        z_weight: float = 0.0,
        outcomes: int | None = None,
        gate_bias: bool = False,
    ):
        super().__init__(num_experts, k, balance_weight, z_weight)
        self.gate = nn.Linear(dim, outcomes or num_experts, bias=gate_bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """A score for each token and expert; the map runs in float32 and therefore not as a layer."""
        return {"matmul": math.prod(shape) * self.gate.out_features}

    def logits(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, L, C) -> (T, E), in float32 or wider: small differences decide."""
        bias = None if self.gate.bias is None else widened(self.gate.bias)
        return F.linear(widened(as_rows(x)), widened(self.gate.weight), bias)


def widened(x: Tensor) -> Tensor:
    """`x` in float32, or in its own type if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def real_rows(ctx: Context | None, count: int) -> Tensor | None:
    """`ctx.mask` (B, L) for the T = `count` tokens of a batch, flat; None when all are real.

    Raises ValueError when the mask is of other tokens.
    """
    if ctx is None or ctx.mask is None:
        return None
    if ctx.mask.numel() != count:
        raise ValueError(f"ctx.mask has shape {tuple(ctx.mask.shape)}; the router meets {count} tokens")
    return ctx.mask.bool().flatten()


def hide_padding(indices: Tensor, real: Tensor | None) -> Tensor:
    """`indices` (T, k) with -1 in the rows of padding; those of another shape as they are."""
    if real is None or indices.shape[:-1] != real.shape:
        return indices
    return indices.masked_fill(~real.unsqueeze(-1), -1)


def load_of(indices: Tensor, outcomes: int, dtype: torch.dtype) -> Tensor:
    """(outcomes,) the share of choices that fell on each; -1 is no choice. Sums to 1, or is 0 where there was none."""
    is_routed = (indices >= 0).flatten()
    counts = torch.zeros(outcomes, dtype=dtype, device=indices.device)
    counts = counts.index_add(0, indices.flatten().clamp_min(0), is_routed.to(dtype))
    return counts / is_routed.sum().clamp_min(1)


def share(weights: Tensor) -> Tensor:
    """Weights divided by their sum over the last axis, which is kept from 0."""
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
