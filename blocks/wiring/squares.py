"""An image cut into squares, of which each is a sample of its own (the bricks of LEGO). Paper: arXiv:2310.06389."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor, nn

from blocks.context import Context
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Slot
from blocks.wiring.graph import merged

Merge = Annotated[Slot, Meta(extra_json_schema={"kinds": ["merge", "wiring"]})]


@block(
    "squares",
    kind="merge",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2310.06389",
    covers=("lego_brick",),
)
class Squares(nn.Module):
    """y = the outputs of `inside` for each square of size x size pixels, put together again; squares do not see each other.

    Images (B, C, H, W) that are cut, and conditions (B, 1, D) that every square of their sample meets -> (B, C', H, W), where `inside`
    gives images of its squares' size. Raises SizeError for an image that is not made of whole squares.
    """

    def __init__(self, dims: tuple[int, ...], *, size: Annotated[int, Meta(ge=1, le=16384)], inside: Merge):
        super().__init__()
        self.size = size
        given, place = inside.place.inputs, inside.place.at("inside")
        sized = replace(place, inputs=None if given is None else lambda: self._cut(given()))
        self.inside: Any = Slot(inside.call, sized)(dims[0], dims=dims)
        self.out_dim = int(getattr(self.inside, "out_dim", dims[0]))

    def forward(self, *tensors: Tensor, ctx: Context | None = None) -> Tensor:
        B, _, H, W = tensors[0].shape
        rows, columns = H // self.size, W // self.size
        y: Tensor = merged(self.inside, self._cut(tensors), ctx)
        grid = y.permute(0, 2, 3, 1).unflatten(0, (B, rows, columns)).transpose(2, 3)
        return grid.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def _cut(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        count = tensors[0].shape[2:].numel() // self.size**2
        return tuple(self._squares(x) if x.ndim == 4 else x.repeat_interleave(count, 0) for x in tensors)

    def _squares(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B n, C, size, size), row by row."""
        if x.shape[2] % self.size or x.shape[3] % self.size:
            raise SizeError(
                f"an image of {tuple(x.shape[2:])} pixels is not made of squares of {self.size} x {self.size}"
            )
        B, C, H, W = x.shape
        grid = x.permute(0, 2, 3, 1).reshape(B, H // self.size, self.size, W // self.size, self.size, C)
        return grid.transpose(2, 3).flatten(0, 2).permute(0, 3, 1, 2)
