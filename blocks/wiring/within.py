"""Parts that run inside a view of the image."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.folding import fold_neighbours
from blocks.places import check_places, has_places
from blocks.registry import block
from blocks.registry.slots import Place, Slot, View
from blocks.wiring.parts import Parts, add_parts


@block("within", kind="wiring", abilities=("noncausal", "any_resolution", "2d"))
class Within(nn.Module):
    """y = exit(f(enter(x))), where f runs the parts one after the other on what the view shows of x.

    (B, C, H, W) -> the same shape with the width of the last part, for views that give the image back. A causal mixer
    within `scan_2d` is a mixer of images.
    """

    def __init__(self, dim: int, *, parts: Annotated[Parts, Meta(min_length=1)], view: View):
        super().__init__()
        self.view = Slot(view.call, view.place.at("view"))(dim)
        self.out_dim = add_parts(self, [part and Slot(part.call, self._inside(part.place)) for part in parts], dim)

    def _inside(self, place: Place) -> Place:
        """The place of a part: it meets the size that the view shows."""
        sizes, inner = place.sizes, self.view.inner_size
        return place if sizes is None else replace(place, sizes=lambda: inner(sizes()))  # type: ignore[operator]

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if has_places(ctx):
            check_places(self.view, ctx)
        y, memo = self.view.enter(x)  # type: ignore[operator]
        for name in self._parts():
            y = run(self._modules[name], y, ctx)  # type: ignore[arg-type]
        return self.view.exit(y, memo)  # type: ignore[operator]

    def fuse(self) -> nn.Module:
        fold_neighbours(self, self._parts())
        return self

    def _parts(self) -> list[str]:
        return [name for name in self._modules if name != "view"]
