"""Views of an image: as tokens, as windows, as scans along several routes.

A view has `enter(x) -> (y, memo)` and `exit(y, memo) -> x`, between which blocks run on y; `exit(*enter(x))` is x
wherever the image comes back. `inner_size(size)` says which size, (H, W) or (L,), the blocks inside meet for an input
of `size`. Images are (B, C, H, W) in channels_last, so tokens are views of their memory. Blocks inside may change the
width.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.primitives.positions import resized_grid
from blocks.registry import block
from blocks.registry.errors import SizeError

Size = tuple[int, ...]
Route = Literal["row", "column", "row_reversed", "column_reversed"]


@block("tokens", kind="view", layout="BCHW", abilities=("noncausal", "2d"), paper="arXiv:2010.11929")
class Tokens(nn.Module):
    """The image row by row as tokens (B, L, C), with a class token and learned positions where asked for.

    L is H*W, and one more with `cls_token`, which stands `first`, in the `middle` (after H*W // 2 others, as in Vim) or `last`.
    `positions` adds a table `pos_embed` (1, L, C), the class token's among it; of "sinusoid" it is that of arXiv:1706.03762, which stands
    in the state and is not trained. On the way out `keep` decides: the
    `grid`, as an image again; all `tokens`; or the `cls` token alone, (B, 1, C), so that a pooling head reads it and
    nothing else. With `dynamic_size` positions are interpolated to any other image size. Raises ValueError for
    `keep = "cls"` without a class token and, with `positions`, SizeError for an image of another size than it was built for.
    """

    no_decay = ("cls_token", "pos_embed")
    row_by_row = True
    """Tokens stand in the order in which `ctx.mask` counts the positions of an image."""

    cls_token: nn.Parameter | None
    pos_embed: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        cls_token: Literal["first", "middle", "last"] | None = None,
        positions: bool | Literal["sinusoid"] = False,
        keep: Literal["grid", "tokens", "cls"] = "grid",
        dynamic_size: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        input_size: Size = (14, 14),
    ):
        super().__init__()
        self.dynamic_size = dynamic_size
        if keep == "cls" and cls_token is None:
            raise ValueError('keep = "cls" needs a class token: cls_token = "first", "middle" or "last"')
        self.place, self.keep, self.input_size = cls_token, keep, tuple(input_size)
        length = math.prod(self.inner_size(self.input_size))
        self.register_parameter("cls_token", nn.Parameter(torch.empty(1, 1, dim)) if cls_token else None)
        self.is_fixed = positions == "sinusoid"
        table = nn.Parameter(torch.empty(1, length, dim), requires_grad=not self.is_fixed) if positions else None
        self.register_parameter("pos_embed", table)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.cls_token, self.pos_embed):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        if self.is_fixed and self.pos_embed is not None:
            with torch.no_grad():
                self.pos_embed.copy_(sinusoids(*self.pos_embed.shape[1:]))

    def inner_size(self, size: Size) -> Size:
        return (math.prod(size) + (self.place is not None),)

    def enter(self, x: Tensor) -> tuple[Tensor, Size]:
        B, C, *size = x.shape
        y = x.permute(0, 2, 3, 1).reshape(B, math.prod(size), C)
        if self.cls_token is not None:
            at = self._cls_index(y.shape[1])
            y = torch.cat([y[:, :at], self.cls_token.expand(B, -1, -1), y[:, at:]], 1)
        if self.pos_embed is not None:
            y = y + self._positions(tuple(size), self.pos_embed)
        return y, tuple(size)

    def _positions(self, size: Size, table: Tensor) -> Tensor:
        if size == self.input_size:
            return table
        resized = self._resized(table, size, self.input_size) if self.dynamic_size else None
        if resized is None:
            raise SizeError(
                f"these positions are for images of size {self.input_size} and meet {size}; "
                "build the model with that input size"
            )
        return resized

    def exit(self, y: Tensor, memo: Size) -> Tensor:
        if self.keep == "tokens":
            return y
        if self.keep == "cls":
            at = self._cls_index(y.shape[1] - 1)
            return y[:, at : at + 1]
        return self.grid(y, memo)

    def grid(self, y: Tensor, memo: Size) -> Tensor:
        """The tokens as an image, without the class token."""
        if self.place is not None:
            at = self._cls_index(y.shape[1] - 1)
            y = (
                y[:, 1:]
                if at == 0
                else y[:, :at]
                if self.place == "last"
                else torch.cat([y[:, :at], y[:, at + 1 :]], 1)
            )
        return _image(y, memo)

    def _cls_index(self, count: int) -> int:
        """Where the class token stands among `count` others."""
        return {"first": 0, "middle": count // 2, "last": count}[self.place or "first"]

    def resize_table(self, name: str, tensor: Tensor, expected_shape: Size, old: Tokens | None = None) -> Tensor | None:
        """Positions of another image size, for this one: the grid is interpolated, the class token's kept."""
        if name != "pos_embed" or tensor.ndim != 3 or tensor.shape[-1] != expected_shape[-1]:
            return None
        return self._resized(tensor, self.input_size, old.input_size if old is not None else None)

    def _resized(self, table: Tensor, size: Size, old: Size | None) -> Tensor | None:
        if self.place is None:
            return resized_grid(table, size, old)
        at, new = self._cls_index(table.shape[1] - 1), self._cls_index(math.prod(size))
        grid = resized_grid(torch.cat([table[:, :at], table[:, at + 1 :]], 1), size, old)
        return None if grid is None else torch.cat([grid[:, :new], table[:, at : at + 1], grid[:, new:]], 1)


@block(
    "window",
    kind="view",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2103.14030",
    covers=("window_partition",),
)
class Window(nn.Module):
    """The image cut into windows: (B, C, H, W) -> (B * windows, C, size, size), each an image of its own.

    Below and to the right the image is filled up with zeros to whole windows; on the way out they are cut off.
    """

    def __init__(self, *, size: Annotated[int, Meta(ge=1)] = 7):
        super().__init__()
        self.size = size

    def inner_size(self, size: Size) -> Size:
        return (self.size, self.size)

    def enter(self, x: Tensor) -> tuple[Tensor, Size]:
        B, _, H, W = x.shape
        return cut_windows(x, self.size).permute(0, 3, 1, 2), (B, H, W)

    def exit(self, y: Tensor, memo: Size) -> Tensor:
        return join_windows(y.permute(0, 2, 3, 1), memo)


@block(
    "scan_2d",
    kind="view",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2401.10166",
    covers=("cross_scan",),
)
class Scan2d(nn.Module):
    """The image as tokens along R routes, one behind the other on the batch axis: (B, C, H, W) -> (R * B, H*W, C).

    So one causal mixer inside sees every position from each route's side. On the way out the routes are brought back
    to the image and summed or averaged.
    """

    def __init__(
        self,
        *,
        routes: Annotated[list[Route], Meta(min_length=1)] = ["row", "column", "row_reversed", "column_reversed"],  # noqa: B006
        merge: Literal["sum", "mean"] = "mean",
    ):
        super().__init__()
        self.routes, self.merge = tuple(routes), merge

    def inner_size(self, size: Size) -> Size:
        return (math.prod(size),)

    def enter(self, x: Tensor) -> tuple[Tensor, Size]:
        image = x.permute(0, 2, 3, 1)
        return torch.cat([along_route(image, route) for route in self.routes]), tuple(x.shape[2:])

    def exit(self, y: Tensor, memo: Size) -> Tensor:
        scans = zip(each_route(y, len(self.routes)), self.routes, strict=True)
        return merged([back_from_route(scan, route, memo) for scan, route in scans], self.merge).permute(0, 3, 1, 2)


@block(
    "slices",
    kind="view",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2111.05297",
    covers=("sliced_attention", "group_attention"),
)
class Slices(nn.Module):
    """The image row by row as tokens, cut into `count` equal slices: (B, C, H, W) -> (count * B, H*W / count, C).

    With `shuffle` the tokens are put into random order before, and back after, in training; upstream does so in evaluation, too. Raises
    ValueError when `count` does not divide H*W.
    """

    def __init__(self, *, count: Annotated[int, Meta(ge=1)] = 1, shuffle: bool = False):
        super().__init__()
        self.count, self.shuffle = count, shuffle

    def inner_size(self, size: Size) -> Size:
        return (math.prod(size) // self.count,)

    def enter(self, x: Tensor) -> tuple[Tensor, tuple[Size, Tensor | None]]:
        B, C, H, W = x.shape
        if H * W % self.count:
            raise ValueError(f"{H} x {W} positions do not make {self.count} equal slices")
        y = x.permute(0, 2, 3, 1).reshape(B, H * W, C)
        order = torch.randperm(H * W, device=x.device) if self.shuffle and self.training else None
        y = y if order is None else y[:, order]
        return y.reshape(B * self.count, H * W // self.count, C), ((H, W), order)

    def exit(self, y: Tensor, memo: tuple[Size, Tensor | None]) -> Tensor:
        size, order = memo
        y = y.reshape(y.shape[0] // self.count, math.prod(size), y.shape[-1])
        return _image(y if order is None else y[:, order.argsort()], size)


@block("resized", kind="view", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"), paper="arXiv:2108.04384")
class Resized(nn.Module):
    """The image at the one size that the blocks inside were built for: (B, C, H, W) -> (B, C, h, w), bicubic there and back.

    That is a square of `size`, or without one the size that the net was built for, at which the view is the image itself.
    """

    def __init__(self, *, size: Annotated[int, Meta(ge=1)] | None = None, input_size: Size = (14, 14)):
        super().__init__()
        self.input_size = (size, size) if size else tuple(input_size)

    def inner_size(self, size: Size) -> Size:
        return self.input_size

    def enter(self, x: Tensor) -> tuple[Tensor, Size]:
        size = tuple(x.shape[2:])
        return _resized_to(x, self.input_size), size

    def exit(self, y: Tensor, memo: Size) -> Tensor:
        return _resized_to(y, memo)


def _resized_to(x: Tensor, size: Size) -> Tensor:
    if tuple(x.shape[2:]) == size:
        return x
    if type(x) is Tensor and not (x.numel() and math.prod(size)):
        return x.new_zeros((*x.shape[:2], *size))
    return F.interpolate(x, size, mode="bicubic", align_corners=False)


def each_route(y: Tensor, count: int) -> tuple[Tensor, ...]:
    """What stands one behind the other on the batch axis, apart again; for any batch, in an exported net too."""
    return y.unflatten(0, (count, -1)).unbind(0)


def merged(scans: list[Tensor], merge: str) -> Tensor:
    """The sum of the scans, or their mean."""
    total = scans[0]
    for scan in scans[1:]:
        total = total + scan
    return total / len(scans) if merge == "mean" else total


def along_route(image: Tensor, route: str) -> Tensor:
    """(B, H, W, C) -> (B, H*W, C) in the order of the route."""
    tokens = (image.transpose(1, 2) if route.startswith("column") else image).flatten(1, 2)
    return tokens.flip(1) if route.endswith("reversed") else tokens


def back_from_route(tokens: Tensor, route: str, size: Size) -> Tensor:
    """The inverse of `along_route`."""
    H, W = size
    tokens = tokens.flip(1) if route.endswith("reversed") else tokens
    return tokens.unflatten(1, (W, H)).transpose(1, 2) if route.startswith("column") else tokens.unflatten(1, (H, W))


def sinusoids(length: int, dim: int) -> Tensor:
    """(L, C): sines of a position in even columns, cosines in odd ones, of periods from 2 pi to 10,000 times that."""
    periods = 10_000 ** (2 * (torch.arange(dim, dtype=torch.float64) // 2) / dim)
    angles = torch.arange(length, dtype=torch.float64).unsqueeze(1) / periods
    return torch.where(torch.arange(dim) % 2 == 0, angles.sin(), angles.cos()).float()


def _image(tokens: Tensor, size: Size) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W), a view where the tokens are one piece of memory."""
    return tokens.unflatten(1, size).permute(0, 3, 1, 2)


def cut_windows(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B * windows, side, side, C), filled up with zeros to whole windows; a view where one is enough."""
    _, C, H, W = x.shape
    y = x.permute(0, 2, 3, 1)
    if (side, side) == (H, W):
        return y
    if H % side or W % side:
        y = F.pad(y, (0, 0, 0, -W % side, 0, -H % side))
    y = y.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
    return y.reshape(-1, side, side, C)


def join_windows(y: Tensor, size: Size) -> Tensor:
    """(B * windows, side, side, C) -> (B, C, H, W) for the `size` (B, H, W) that was cut."""
    B, H, W = size
    side = y.shape[1]
    if (side, side) != (H, W):
        rows, columns = (H + side - 1) // side, (W + side - 1) // side
        y = y.reshape(B, rows, columns, side, side, y.shape[-1]).transpose(2, 3)
        y = y.flatten(3, 4).flatten(1, 2)[:, :H, :W]
    return y.permute(0, 3, 1, 2)
