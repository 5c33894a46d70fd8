"""Scans of a volume: frames, rows and columns as one sequence, in any order of the three."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.primitives.views import each_route, merged
from blocks.registry import block

Route = Literal[
    "thw", "thw_reversed", "twh", "twh_reversed", "htw", "htw_reversed",
    "hwt", "hwt_reversed", "wth", "wth_reversed", "wht", "wht_reversed",
]  # fmt: skip
AXES = {"t": 1, "h": 2, "w": 3}
"""Where the axes of a volume (B, T, H, W, C) stand."""


@block(
    "multi_scan",
    kind="view",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d", "3d"),
    paper="arXiv:2402.05892",
)
class MultiScan(nn.Module):
    """A video as tokens along R routes, one behind the other on the batch axis: T frames -> (R * B, T*H*W, C).

    The frames of a video follow each other on the batch axis, (B * T, C, H, W) with T = `frames`, or have an axis of their
    own, (B, C, T, H, W). A route names its axes from the slowest to the fastest: "thw" goes through a frame row by row
    before it goes on to the next, "hwt" follows each place through time. On the way out the routes are brought back and
    summed or averaged. Raises ValueError for images that are no whole number of videos.
    """

    def __init__(
        self,
        *,
        frames: Annotated[int, Meta(ge=1)] = 1,
        routes: Annotated[list[Route], Meta(min_length=1)] = [  # noqa: B006
            "thw", "thw_reversed", "hwt", "hwt_reversed", "wth", "wth_reversed",
        ],
        merge: Literal["sum", "mean"] = "mean",
    ):  # fmt: skip
        super().__init__()
        self.frames, self.routes, self.merge = frames, tuple(routes), merge

    def inner_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return (math.prod(size) * (self.frames if len(size) == 2 else 1),)

    def enter(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        if x.ndim == 4 and x.shape[0] % self.frames:
            raise ValueError(f"{x.shape[0]} images are no whole number of videos of {self.frames} frames")
        volume = x.permute(0, 2, 3, 4, 1) if x.ndim == 5 else x.permute(0, 2, 3, 1).unflatten(0, (-1, self.frames))
        return torch.cat([_along(volume, route) for route in self.routes]), (x.ndim, *volume.shape[1:4])

    def exit(self, y: Tensor, memo: tuple[int, ...]) -> Tensor:
        rank, *size = memo
        scans = zip(each_route(y, len(self.routes)), self.routes, strict=True)
        total = merged([_back(scan, route, size) for scan, route in scans], self.merge)
        return total.permute(0, 4, 1, 2, 3) if rank == 5 else total.flatten(0, 1).permute(0, 3, 1, 2)


def _order(route: str) -> list[int]:
    """The axes of the volume in the order of the route."""
    return [0, *(AXES[axis] for axis in route[:3]), 4]


def _along(volume: Tensor, route: str) -> Tensor:
    """(B, T, H, W, C) -> (B, T*H*W, C) in the order of the route."""
    tokens = volume.permute(_order(route)).flatten(1, 3)
    return tokens.flip(1) if route.endswith("reversed") else tokens


def _back(tokens: Tensor, route: str, size: list[int]) -> Tensor:
    """The inverse of `_along`, for a volume of `size` (T, H, W)."""
    tokens = tokens.flip(1) if route.endswith("reversed") else tokens
    order = _order(route)
    volume = tokens.unflatten(1, [size[axis - 1] for axis in order[1:4]])
    return volume.permute([order.index(axis) for axis in range(5)])
