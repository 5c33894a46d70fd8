"""Hierarchical deep aggregation: blocks are the leaves of a binary tree, and every root joins the maps of what stands below it.

Paper: arXiv:1707.06484 (section 3.2). Upstream: ucbdrive/dla (BSD-3-Clause); names of the state are upstream's.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import Act, Slot, slot
from blocks.wiring.parts import Parts


class Aggregation(nn.Module):
    """A tree whose last root reads `kept_dim` channels beside the two maps below it."""

    def __init__(
        self,
        dim: int,
        out_dim: int,
        parts: tuple[Slot, Slot],
        levels: int,
        root: Slot,
        skip: bool,
        act: Act | None,
        kept_dim: int = 0,
    ):
        super().__init__()
        first, other = parts
        self.out_dim, self.skip = out_dim, skip
        if levels == 1:
            self.tree1: nn.Module = first(dim, out_dim)
            self.tree2: nn.Module = other(out_dim, out_dim)
            self.root: nn.Module | None = root(2 * out_dim + kept_dim, out_dim)
            self.act = act(out_dim) if act else None
        else:
            self.tree1 = Aggregation(dim, out_dim, parts, levels - 1, root, skip, act)
            self.tree2 = Aggregation(out_dim, out_dim, (other, other), levels - 1, root, skip, act, kept_dim + out_dim)
            self.root = self.act = None

    def grow(self, x: Tensor, kept: list[Tensor], ctx: Context | None) -> Tensor:
        """The tree's output, whose last root reads the maps `kept`, too."""
        if self.root is None:
            y: Tensor = self.tree1.grow(x, [], ctx)  # type: ignore[operator]
            return self.tree2.grow(y, [*kept, y], ctx)  # type: ignore[no-any-return, operator]
        a = run(self.tree1, x, ctx)
        b = run(self.tree2, a, ctx)
        y = run(self.root, torch.cat([b, a, *kept], dim=1), ctx)
        if self.skip:
            y = y + b
        return y if self.act is None else self.act(y)


@block(
    "tree",
    kind="wiring",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1707.06484",
    covers=("dla", "deep_layer_aggregation", "hierarchical_deep_aggregation"),
)
class Tree(Aggregation):
    """T_1(x; k) = act(root [b, a, k] + skip b) with a = f_1(x), b = f_2(a); T_n(x; k) = T_{n-1}(y; k, y) with y = T_{n-1}(x).

    (B, C, H, W) -> (B, out_dim, H', W'). The first of the two `parts` is f_1 of the leftmost leaf, which may change width and size; every
    other leaf is the second. `levels` is n. With a `bottom`, which gives x the size of the outputs, the last root reads that, too:
    k begins as bottom(x), and else as nothing. Raises ValueError for an empty part.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        parts: Annotated[Parts, Meta(min_length=2, max_length=2)],
        levels: Annotated[int, Meta(ge=1, le=8)] = 1,
        root: Slot = slot("conv_norm_act", kernel_size=1),
        bottom: Slot | None = None,
        skip: bool = False,
        act: Act | None = slot("relu"),
    ):
        first, other = parts
        if first is None or other is None:
            raise ValueError("a tree has two parts, its first leaf and every other; found an empty one")
        kept_dim = 0 if bottom is None else dim
        super().__init__(dim, out_dim or dim, (first, other), levels, root, skip, act, kept_dim)
        self.bottom = bottom(dim) if bottom else None

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.grow(x, [] if self.bottom is None else [run(self.bottom, x, ctx)], ctx)
