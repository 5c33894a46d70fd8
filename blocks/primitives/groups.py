"""Groups of tokens: the windows of an image one behind the other, groups as samples of their own, and learned tokens beside them.

Paper: arXiv:2305.12689 (FIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block

Count = Annotated[int, Meta(ge=1, le=65536)]
Pair = Annotated[list[Count], Meta(min_length=2, max_length=2)]


@block("groups", kind="view", layout="BLC", abilities=("noncausal", "1d"), paper="arXiv:2305.12689")
class Groups(nn.Module):
    """Each of `count` groups of neighbouring tokens as a sample: (B, count L, C) -> (count B, L, C), what is inside sees one group alone.

    Raises ValueError when `count` does not divide the length.
    """

    def __init__(self, *, count: Count = 1):
        super().__init__()
        self.count = count

    def inner_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return (size[0] // self.count,)

    def enter(self, x: Tensor) -> tuple[Tensor, None]:
        return cut_groups(x, self.count), None

    def exit(self, y: Tensor, memo: None) -> Tensor:
        return y.reshape(y.shape[0] // self.count, self.count * y.shape[1], y.shape[2])


@block(
    "grouped_tokens",
    kind="whole",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2305.12689",
)
class GroupedTokens(nn.Module):
    """The patches of windows of `size` pixels, row by row, one window behind the other: (B, C, H, W) -> (B, H W / p^2, p^2 C).

    `size` is that of a square, or rows and columns; a token holds the p x p pixels of its `patch`, row by row, each with its channels.
    Raises ValueError when patches do not make up the windows, or windows the image.
    """

    def __init__(self, dim: int, *, size: Count | Pair = 1, patch: Count = 1):
        super().__init__()
        self.rows, self.columns = size if isinstance(size, list) else (size, size)
        if self.rows % patch or self.columns % patch:
            raise ValueError(f"patches of {patch} x {patch} do not make up windows of {self.rows} x {self.columns}")
        self.patch, self.out_dim = patch, dim * patch**2

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        p, rows, columns = self.patch, self.rows, self.columns
        if H % rows or W % columns:
            raise ValueError(f"windows of {rows} x {columns} do not make up {H} x {W} pixels")
        y = x.permute(0, 2, 3, 1).reshape(B, H // rows, rows // p, p, W // columns, columns // p, p, C)
        return y.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(B, H * W // p**2, p**2 * C)


@block(
    "learned_tokens",
    kind="whole",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2305.12689",
    covers=("latents", "slots"),
)
class LearnedTokens(nn.Module):
    """y = `tokens` (count, out_dim), learned, the same beside every sample: (B, L, C), or (B, C, H, W) -> (B, count, out_dim), whatever x holds.

    They start normal with deviation `std`, cut off at 2."""

    no_decay = ("tokens",)
    unreached = ("the input",)

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        count: Count = 1,
        std: Annotated[float, Meta(gt=0, extra_json_schema={"added": "0.1"})] = 0.02,
    ):
        super().__init__()
        self.out_dim, self.std = out_dim or dim, std
        self.tokens = nn.Parameter(torch.empty(count, self.out_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.tokens, std=self.std)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens.expand(x.shape[0], -1, -1)


def cut_groups(x: Tensor, count: int) -> Tensor:
    """(B, count L, C) -> (B count, L, C). Raises ValueError when `count` does not divide the length."""
    length = x.shape[1]
    if length % count:
        raise ValueError(f"{length} tokens do not make {count} equal groups")
    return x.reshape(x.shape[0] * count, length // count, x.shape[2])
