"""The head of forecasters: from every step of a series the values of the next steps. Paper: arXiv:2409.16040 (Time-MoE)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Norm


@block(
    "forecast_head",
    kind="whole",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution", "1d"),
    paper="arXiv:2409.16040",
)
class ForecastHead(nn.Module):
    """y_t = W norm(x_t): at each step what a series is at the next `horizon` steps, step by step, `features` numbers each.

    (B, L, C) -> (B, L, horizon * features); (B, L, C) with `pre_logits`.
    """

    def __init__(
        self,
        dim: int,
        *,
        horizon: Annotated[int, Meta(ge=1)] = 1,
        features: Annotated[int, Meta(ge=1)] = 1,
        norm: Norm | None = None,
        bias: bool = False,
    ):
        super().__init__()
        self.num_features, self.horizon = dim, horizon
        self.norm = norm(dim) if norm else None
        self.classifier = Dense(dim, horizon * features, bias=bias)

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        if self.norm is not None:
            x = run(self.norm, x, ctx)
        return x if pre_logits else self.classifier(x)
