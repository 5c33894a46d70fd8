"""Attention inside windows of the image, every second time of shifted ones, with a learned bias per distance.

Paper: arXiv:2103.14030 (Swin). Upstream: microsoft/Swin-Transformer (MIT).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.primitives.positions import resized_grid
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Linear, slot
from blocks.tables import Table

Count = Annotated[int, Meta(ge=1)]
Drop = Annotated[float, Meta(ge=0, lt=1, extra_json_schema={"added": "0.1"})]
HIDDEN = -3e4
"""What is added to the score of a pair that does not see each other: finite in float16, too, and its exponential 0 in float64."""


@block(
    "window_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2103.14030",
    covers=("w_msa", "swin_attention"),
)
class WindowAttention(nn.Module):
    """y = W_o softmax(q k^T / sqrt(head_dim) + B) v inside each window, with [q | k | v] = W_qkv x.

    (B, C, H, W) -> (B, C, H, W). B holds one learned number per head and distance. With `shift` the windows are moved by so
    many rows and columns, round the border, and positions that only meet there do not see each other. Where the
    image is no larger than a window there is one window, of its size, and no shift. Images that windows do not divide are,
    once moved, filled up with zeros, which are attended to. Of `num_heads` and `head_dim` one decides; with neither, heads are 32 wide.
    In training `attn_drop` of the weights and `proj_drop` of the outputs are dropped. With `dynamic_size` images may have another
    size than `input_size`, which then decides about windows and shift alone. Raises ValueError when heads do not divide, and for
    a shift as large as the window; SizeError for another size that changes windows or shift.
    """

    no_decay = ("relative_position_bias_table",)
    elsewhere: Table | None

    def __init__(
        self,
        dim: int,
        *,
        window: Count = 7,
        shift: Annotated[int, Meta(ge=0)] = 0,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        bias: bool = True,
        linear: Linear = slot("dense"),
        attn_drop: Drop = 0.0,
        proj_drop: Drop = 0.0,
        dynamic_size: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        self.dynamic_size, self.elsewhere = dynamic_size, None
        self.attn_drop, self.proj_drop = attn_drop, proj_drop
        if shift >= window:
            raise ValueError(
                f"a shift of {shift} moves windows of {window} past each other; the largest is {window - 1}"
            )
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.input_size = tuple(input_size)
        whole = min(input_size) <= window
        self.window, self.shift = (min(input_size), 0) if whole else (window, shift)
        self.qkv = linear(dim, 3 * self.num_heads * self.head_dim, bias=bias)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * self.window - 1) ** 2, self.num_heads))
        self.proj = linear(self.num_heads * self.head_dim, dim, bias=bias)
        self.pairs = Table(distances, (self.window,))
        self.hidden = Table(border, (*self.input_size, self.window, self.shift)) if self.shift else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    @property
    def distance(self) -> Tensor:
        """(L, L): which row of the table of biases each pair of positions has."""
        return self.pairs.like(self.relative_position_bias_table)

    def resize_table(
        self, name: str, tensor: Tensor, expected_shape: tuple[int, ...], old: WindowAttention | None = None
    ) -> Tensor | None:
        """The biases of windows of another side, for these; None for anything but their table."""
        if name != "relative_position_bias_table" or tensor.ndim != 2 or tensor.shape[1] != expected_shape[1]:
            return None
        sides = [2 * layer.window - 1 if layer is not None else math.isqrt(len(tensor)) for layer in (old, self)]
        before, after = ((side, side) for side in sides)
        resized = resized_grid(tensor[None], after, before)
        return None if resized is None else resized[0]

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums of each window: 2 window^4 num_heads head_dim."""
        B, _, H, W = shape
        windows = -(-H // self.window) * -(-W // self.window)
        return {"attention": 2 * B * windows * self.window**4 * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        B, _, H, W = x.shape
        if not self.dynamic_size and self.input_size != (H, W) and (self.shift or min(H, W) <= self.window):
            raise SizeError(
                f"these windows are for images of size {self.input_size} and meet {(H, W)}; build the model with that size"
            )
        bottom, right = -H % self.window, -W % self.window
        y = x.permute(0, 2, 3, 1)
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (1, 2))
        if bottom or right:
            y = F.pad(y, (0, 0, 0, right, 0, bottom))
        y = run(self.qkv, y.permute(0, 3, 1, 2), ctx).permute(0, 2, 3, 1)
        q, k, v = self._windows(y).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self._bias(B, (H, W)).to(q), dropout_p=self.attn_drop if self.training else 0.0
        )
        y = self._image(y.transpose(1, 2).flatten(2), H + bottom, W + right)[:, :H, :W]
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        y = run(self.proj, y.permute(0, 3, 1, 2), ctx)
        return F.dropout(y, self.proj_drop, self.training)

    def _bias(self, batch: int, size: tuple[int, int]) -> Tensor:
        """(1 or B * windows, heads, L, L): what is added to the scores."""
        table = self.relative_position_bias_table
        bias = table[self.distance].permute(2, 0, 1).unsqueeze(0)
        if self.hidden is None:
            return bias
        hidden = self.hidden
        if self.dynamic_size and size != self.input_size:
            hidden = self._hidden_at(size)
        return (bias + hidden.like(table)).repeat(batch, 1, 1, 1)

    def _hidden_at(self, size: tuple[int, int]) -> Table:
        """`hidden` for images of another size, kept for the next of that size."""
        call = (*size, self.window, self.shift)
        if self.elsewhere is None or self.elsewhere.arguments != call:
            self.elsewhere = Table(border, call)
        return self.elsewhere

    def _windows(self, y: Tensor) -> Tensor:
        """(B, H, W, C) -> (B * windows, window^2, C)."""
        return windows(y, self.window)

    def _image(self, y: Tensor, H: int, W: int) -> Tensor:
        """The inverse of `_windows`."""
        size = self.window
        return y.view(-1, H // size, W // size, size, size, y.shape[-1]).transpose(2, 3).reshape(-1, H, W, y.shape[-1])

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]


def windows(y: Tensor, size: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, size^2, C)."""
    B, H, W, C = y.shape
    return y.view(B, H // size, size, W // size, size, C).transpose(2, 3).reshape(-1, size * size, C)


def distances(size: int) -> Tensor:
    """(size^2, size^2) which row of the table of biases each pair of positions of a window has."""
    rows, columns = (axis.flatten() for axis in _grid(size, size))
    down = rows[:, None] - rows + size - 1
    right = columns[:, None] - columns + size - 1
    return down * (2 * size - 1) + right


def border(height: int, width: int, size: int, shift: int) -> Tensor:
    """(windows, 1, L, L): 0 for pairs of one region of the shifted image, HIDDEN for pairs that met round the border."""
    H, W = (side + -side % size for side in (height, width))
    rows, columns = _grid(H, W)
    region = 3 * _part(rows, H, size, shift) + _part(columns, W, size, shift)
    regions = windows(region[None, :, :, None], size).squeeze(-1)
    apart = regions[:, None, :] != regions[:, :, None]
    return torch.where(apart, HIDDEN, 0.0).unsqueeze(1)


def _part(position: Tensor, length: int, size: int, shift: int) -> Tensor:
    """0 before the last window, 1 in its part of its own, 2 in the part that came round the border."""
    return (position >= length - size).long() + (position >= length - shift).long()


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column of every position."""
    rows, columns = torch.arange(height), torch.arange(width)
    return rows[:, None].expand(height, width), columns.expand(height, width)
