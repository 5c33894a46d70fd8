"""One-shot aggregation: a chain whose every step is kept, and all of them are read at once at its end.

Paper: arXiv:1904.09730 (VoVNet), arXiv:1911.06667 (its second version).
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
from blocks.registry.slots import NONE, Slot
from blocks.wiring.parts import Parts, check_names, place_of


@block(
    "aggregate",
    kind="wiring",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:1904.09730",
    covers=("osa", "one_shot_aggregation", "vovnet"),
)
class Aggregate(nn.Module):
    """y = x, f_1(z), f_2(f_1(z)), ... one behind the other along the channels, with z = x, or z = before(x).

    (B, C, H, W) or (B, L, C) -> the same shape, with the widths of x and of all parts added up. A list of calls makes a part a chain.
    Raises ValueError when a part is empty.
    """

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        before: Slot | None = None,
    ):
        super().__init__()
        self.before = before(dim) if before else None
        calls = [NONE if part is None else part.call for part in parts]
        check_names(self, calls)
        width = getattr(self.before, "out_dim", dim)
        self.out_dim = dim
        for position, call in enumerate(calls):
            name = step_name(call, position)
            part = construct(call, place_of(parts).at(name), width)
            if part is None:
                raise ValueError(f"part {position} is empty, and would be the one before once more; leave it out")
            self.add_module(name, part)
            width = getattr(part, "out_dim", width)
            self.out_dim += width

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        steps, y = [x], x if self.before is None else run(self.before, x, ctx)
        for name, part in self._modules.items():
            if name != "before":
                y = run(part, y, ctx)  # type: ignore[arg-type]
                steps.append(y)
        return torch.cat(steps, dim=1 if x.ndim == 4 else -1)
