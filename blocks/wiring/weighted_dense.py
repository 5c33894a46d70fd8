"""Weighted dense aggregation: every branch reads a learned sum of all that came before it.

Papers: arXiv:2403.19888 (MambaMixer), arXiv:2402.02622 (DenseFormer).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.construct import construct, step_name
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import NONE
from blocks.wiring.drop_path import drop_path as dropped
from blocks.wiring.parts import Parts, check_names, place_of


@block("weighted_dense", kind="wiring", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:2403.19888")
class WeightedDense(nn.Module):
    """y_{i+1} = f_i(sum_{j<=i} alpha_ij y_j) with y_0 = x; the output is the sum of all y_j with the last alphas.

    (B, C, H, W) or (B, L, C) -> the same shape. Each part is one branch; a list of calls makes it a chain. The list is
    gone through `repeat` times, each time with weights of its own, so that a whole stage can be one such layer. `alpha`
    holds the rows one behind the other and starts at 1: at first that is a stack of plain residual branches. In training
    a branch is left out of a sample with probability `drop_path`. Raises ValueError when a branch is empty or changes the width.
    """

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        repeat: Annotated[int, Meta(ge=1)] = 1,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.drop_path = drop_path
        calls = [NONE if part is None else part.call for part in parts] * repeat
        self.alpha = nn.Parameter(torch.empty((len(calls) + 1) * (len(calls) + 2) // 2))
        check_names(self, calls)
        for position, call in enumerate(calls):
            name = step_name(call, position)
            branch = construct(call, place_of(parts).at(name), dim)
            if branch is None:
                raise ValueError(f"branch {position} is empty; a sum needs none: leave it out")
            if getattr(branch, "out_dim", dim) != dim:
                raise ValueError(
                    f"branch {position} leads from {dim} to {branch.out_dim} channels, and the sums need {dim}"
                )
            self.add_module(name, branch)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.alpha)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        outputs, weights = [x], self.alpha.to(x.dtype)
        for branch in self._modules.values():
            y = run(branch, _sum(outputs, weights), ctx)  # type: ignore[arg-type]
            weights = weights[len(outputs) :]
            outputs.append(dropped(y, self.drop_path, self.training))
        return _sum(outputs, weights)


def _sum(outputs: list[Tensor], weights: Tensor) -> Tensor:
    """The sum of each output times its weight; the weights begin with the row of these outputs."""
    total = outputs[0] * weights[0]
    for output, weight in zip(outputs[1:], weights[1:], strict=False):
        total = torch.addcmul(total, output, weight)
    return total
