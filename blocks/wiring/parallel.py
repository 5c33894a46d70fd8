"""Branches side by side on one input."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.construct import construct, step_name
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import NONE
from blocks.wiring.parts import Parts, check_names, place_of


@block("parallel", kind="wiring", abilities=("causal", "noncausal", "any_resolution"))
class Parallel(nn.Module):
    """y = sum_i f_i(x), or the f_i(x) one behind the other along the channels.

    (B, C, H, W) or (B, L, C) -> the same shape, with the widths of the branches added up for `concat`. Each part is one
    branch; a list of calls makes it a chain, and "none", a chain without parts, is x itself. Raises ValueError when
    branches to be summed differ in width.
    """

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        merge: Literal["sum", "concat"] = "sum",
    ):
        super().__init__()
        self.merge = merge
        calls = [NONE if part is None else part.call for part in parts]
        check_names(self, calls)
        widths = []
        for position, call in enumerate(calls):
            name = step_name(call, position)
            branch = construct(call, place_of(parts).at(name), dim)
            self.add_module(name, branch)
            widths.append(getattr(branch, "out_dim", dim))
        if merge == "sum" and len(set(widths)) > 1:
            raise ValueError(f"branches of {widths} channels cannot be summed; give them one width, or merge by concat")
        self.out_dim = sum(widths) if merge == "concat" else widths[0]

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        branches = [x if part is None else run(part, x, ctx) for part in self._modules.values()]
        if self.merge == "concat":
            return torch.cat(branches, dim=1 if x.ndim == 4 else -1)
        y = branches[0]
        for branch in branches[1:]:
            y = y + branch
        return y
