"""The activation of PanGu-pi: a sum of shifted copies of one function, which makes an MLP more nonlinear at no cost in weights.

Paper: arXiv:2312.17276. No official code.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import per_channel, run
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import Act, slot


@block(
    "series_activation",
    kind="act",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2312.17276",
    covers=("series_informed_activation",),
)
class SeriesActivation(nn.Module):
    """y = sum_i a_i act(x + b_i) over `terms` copies, with a and b (terms, C) learned for each channel.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape. Each a_i starts at 1 / terms, and the b_i evenly from -1 to 1, so
    that no two terms are alike; where to start, the paper leaves open.
    """

    no_decay = ("scale", "shift")

    def __init__(self, dim: int, *, terms: Annotated[int, Meta(ge=1)] = 2, act: Act = slot("gelu")):
        super().__init__()
        self.act = act(dim)
        self.scale = nn.Parameter(torch.empty(terms, dim))
        self.shift = nn.Parameter(torch.empty(terms, dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        terms = len(self.scale)
        self.scale.fill_(1 / terms)
        places = torch.linspace(-1, 1, terms, device=self.shift.device) if terms > 1 else self.shift.new_zeros(1)
        self.shift.copy_(places.unsqueeze(1).expand_as(self.shift))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        terms = [
            per_channel(scale, x) * run(self.act, x + per_channel(shift, x), ctx)
            for scale, shift in zip(self.scale, self.shift, strict=True)
        ]
        return sum(terms[1:], terms[0])
