"""One set of weights run several times, each time followed by parts of its own. Paper: arXiv:2111.05297 (SReT)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.construct import build_chain
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import NONE, Place, Slot, View
from blocks.wiring.parts import Parts, place_of


@block(
    "recursive",
    kind="wiring",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2111.05297",
    covers=("sret", "recursive_transformer"),
)
class Recursive(nn.Module):
    """x <- g_t(exit_t f(enter_t x)) for each turn t: f runs the parts, the same in all turns; g_t = `after[t]` and the view are the turn's.

    (B, C, H, W) -> the same shape; there are as many turns as there are `after`. Of `views` there is one for each turn, "none" for a
    turn that sees the stream as it is, or none at all. Raises ValueError for another number of views than of turns, and when parts change the width.
    """

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        after: Annotated[list[Slot], Meta(min_length=1)],
        views: list[View | None] = [],  # noqa: B006
    ):
        super().__init__()
        if views and len(views) != len(after):
            raise ValueError(f"{len(after)} turns have a view each, or none has; found {len(views)} views")
        place = place_of(parts)
        turns = [Slot(view.call, place.at(f"views.{t}"))(dim) if view else None for t, view in enumerate(views)]
        self.views = nn.ModuleList(nn.Identity() if view is None else view for view in turns)
        calls = [NONE if part is None else part.call for part in parts]
        self.shared = build_chain(calls, self._inside(place.at("shared")), dim, dim)
        self.after = nn.ModuleList(slot(dim) for slot in after)
        widths = [self.shared.out_dim, *(getattr(part, "out_dim", dim) for part in self.after)]
        if set(widths) != {dim}:
            raise ValueError(
                f"what is run again needs its own width back, {dim}; its parts lead to {max(widths, key=lambda w: w != dim)}"
            )

    def _inside(self, place: Place) -> Place:
        """The place of the parts: they meet the size that the first view shows."""
        sizes, view = place.sizes, next(iter(self.views), None)
        inner = getattr(view, "inner_size", None)
        return place if sizes is None or inner is None else replace(place, sizes=lambda: inner(sizes()))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        for turn, after in enumerate(self.after):
            view = self.views[turn] if len(self.views) else None
            if hasattr(view, "enter"):
                y, memo = view.enter(x)  # type: ignore[operator, union-attr]
                x = view.exit(run(self.shared, y, ctx), memo)  # type: ignore[operator, union-attr]
            else:
                x = run(self.shared, x, ctx)
            x = run(after, x, ctx)
        return x
