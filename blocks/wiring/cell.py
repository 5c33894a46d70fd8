"""A cell of a searched net: a small graph of operations between the input of this layer and that of the layer before.

Paper: arXiv:1707.07012 (NASNet, section 3.1). Upstream: tensorflow/models (Apache-2.0), in Cadene's and timm's PyTorch form.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.construct import construct
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import NONE, Slot
from blocks.wiring.parts import Parts, place_of

Index = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
SLOT = "cell inputs"


@block(
    "cell",
    kind="wiring",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1707.07012",
    covers=("nasnet", "nas_cell", "darts"),
)
class Cell(nn.Module):
    """h_0 = before(p), h_1 = now(x), h_{k+2} = f_{2k}(h_i) + f_{2k+1}(h_j); y = the h of `keeps`, or all nodes, one behind the other.

    (B, C, H, W) -> (B, sum of the kept widths, H', W'). p is the input of the layer before, where that is a cell, and else x. `parts` are
    the operations f, two for each node; "none" is x itself. `inputs` says of each which h it reads: 0 and 1 as above, 2 the first node.
    All h have the width of h_1. With `passes_before` the next cell reads p, too, as after a cell that makes the map smaller. Raises
    ValueError for lists of other lengths, and for an operation that reads a node behind itself.
    """

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=2)],
        inputs: Annotated[list[Index], Meta(min_length=2)],
        keeps: Annotated[list[Index], Meta(min_length=1)] | None = None,
        now: Slot | None = None,
        before: Slot | None = None,
        before_dim: Count | None = None,
        passes_before: bool = False,
        depth_index: int = 0,
    ):
        super().__init__()
        nodes = len(parts) // 2
        if len(parts) % 2 or len(inputs) != len(parts):
            raise ValueError(
                f"a node has two operations, each with an input; found {len(parts)} and {len(inputs)} inputs"
            )
        if late := [i for i, source in enumerate(inputs) if source >= 2 + i // 2]:
            raise ValueError(
                f"operation {late[0]} reads value {inputs[late[0]]}, which is not there before node {late[0] // 2}"
            )
        keeps = keeps or list(range(2, nodes + 2))
        if max(keeps) >= nodes + 2:
            raise ValueError(f"there are {nodes + 2} values to keep, counted from 0; found {max(keeps)}")
        self.inputs, self.keeps = inputs, keeps
        self.reads = SLOT
        self.depth_index, self.passes_before = depth_index, passes_before
        self.now = now(dim) if now else None
        width = getattr(self.now, "out_dim", dim)
        self.before = before(before_dim or dim) if before else None
        widths = [getattr(self.before, "out_dim", before_dim or dim), width]
        for i, (part, source) in enumerate(zip(parts, inputs, strict=True)):
            call = NONE if part is None else part.call
            place, wanted = place_of(parts).at(str(i)), None if widths[source] == width else width
            operation = construct(call, place, widths[source], wanted)
            if operation is not None:
                self.add_module(str(i), operation)
            if i % 2:
                widths.append(getattr(operation, "out_dim", widths[source]))
        self.out_dim = sum(widths[i] for i in keeps)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        written = ctx.read(SLOT) if ctx is not None else {}
        p = written.get(str(self.depth_index - 1), x)
        if ctx is not None:
            ctx.write(SLOT, str(self.depth_index), p if self.passes_before else x)
        h = [p if self.before is None else run(self.before, p, ctx), x if self.now is None else run(self.now, x, ctx)]
        for i in range(0, len(self.inputs), 2):
            h.append(self._operation(i, h, ctx) + self._operation(i + 1, h, ctx))
        return torch.cat([h[i] for i in self.keeps], 1)

    def _operation(self, i: int, h: list[Tensor], ctx: Context | None) -> Tensor:
        operation = self._modules.get(str(i))
        return h[self.inputs[i]] if operation is None else run(operation, h[self.inputs[i]], ctx)
