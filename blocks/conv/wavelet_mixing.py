"""WaveMix's block: space is mixed by a Haar transform, which has no weights, and brought back by transposed convolutions.

Paper: arXiv:2205.14375. Upstream: pranavphoenix/WaveMix (MIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides
from blocks.chain import run
from blocks.context import Context
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Act, Norm, slot


@block(
    "wavelet_mixing",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2205.14375",
    covers=("wavemix", "haar"),
)
class WaveletMixing(nn.Module):
    """y = f_1 [low_1 | high_1 | f_2 [low_2 | high_2 | ...]], low_i and high_i the i-th Haar transform of W x, W: C -> C / 4.

    (B, C, H, W) -> (B, C, H, W). low_i is C / 4 wide and high_i three times as wide, at 1 / 2^i of the size; f_i = norm(T(W_2
    drop(act(W_1 z)))), W_1 to ratio * C and W_2 to `hidden_dim` channels, C without one; T doubles the size and leaves C channels, C / 2 in f_i with i > 1.
    Raises ValueError when 4 does not divide C, and for a map that cannot be halved so often.
    """

    def __init__(
        self,
        dim: int,
        *,
        levels: Annotated[int, Meta(ge=1, le=8)] = 1,
        ratio: Annotated[float, Meta(gt=0)] = 2.0,
        hidden_dim: Annotated[int, Meta(ge=1)] | None = None,
        act: Act = slot("gelu"),
        norm: Norm | None = slot("batch_norm"),
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
    ):
        super().__init__()
        check_divides("four subbands", 4, "dim", dim)
        self.levels = levels
        self.reduction = Dense(dim, dim // 4)
        self.branches = nn.ModuleList(
            Upward(
                dim if level == levels - 1 else dim + dim // 2,
                dim if level == 0 else dim // 2,
                (int(ratio * dim), hidden_dim or dim),
                act(int(ratio * dim)),
                norm(dim if level == 0 else dim // 2) if norm else None,
                drop,
            )
            for level in range(levels)
        )

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        step = 2**self.levels
        if x.shape[2] % step or x.shape[3] % step:
            raise ValueError(
                f"a map of {tuple(x.shape[2:])} cannot be halved {self.levels} times; {step} must divide it"
            )
        low, subbands = self.reduction(x), []
        for _ in range(self.levels):
            low, high = haar(low)
            subbands.append([low, high])
        y: list[Tensor] = []
        for branch, parts in zip(reversed(self.branches), reversed(subbands), strict=True):
            y = [branch(torch.cat(parts + y, 1), ctx)]
        return y[0]


class Upward(nn.Module):
    """norm(T(W_2 drop(act(W_1 x)))): two pointwise maps and a transposed convolution that doubles rows and columns."""

    def __init__(
        self, dim: int, out_dim: int, hidden: tuple[int, int], act: nn.Module, norm: nn.Module | None, drop: float
    ):
        super().__init__()
        self.drop = drop
        self.fc1 = Dense(dim, hidden[0])
        self.act = act
        self.fc2 = Dense(*hidden)
        self.up = nn.ConvTranspose2d(hidden[1], out_dim, 4, 2, 1)
        self.norm = norm

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        hidden = F.dropout(run(self.act, self.fc1(x), ctx), self.drop, self.training)
        y: Tensor = self.up(self.fc2(hidden))
        return y if self.norm is None else run(self.norm, y, ctx)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        affine = self.norm.as_affine() if hasattr(self.norm, "as_affine") else None  # type: ignore[union-attr, operator]
        if affine is not None:
            scale, shift = (value.to(self.up.weight) for value in affine)
            self.up.weight.mul_(scale.view(-1, 1, 1))  # (in, out, 4, 4)
            self.up.bias = nn.Parameter(self.up.bias * scale + shift, requires_grad=False)  # type: ignore[operator]
            self.norm = None
        return self


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """One Haar transform: (B, C, H, W) -> low (B, C, H/2, W/2) and high (B, 3 C, H/2, W/2), three subbands of a channel side by side.

    In each, one of rows and columns, or both, is the difference of two neighbours instead of their sum; all are halved.
    """
    left, right = x[..., ::2], x[..., 1::2]
    smooth, rough = left + right, left - right
    (low, low_high), (high_low, high) = (
        (part[..., ::2, :] + part[..., 1::2, :], part[..., ::2, :] - part[..., 1::2, :]) for part in (smooth, rough)
    )
    return low / 2, torch.stack([low_high, high_low, high], 2).flatten(1, 2) / 2
