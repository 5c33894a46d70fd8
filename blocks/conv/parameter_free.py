"""Mixers that learn nothing: how far a network comes by its wiring alone (PoolFormer, IdentityFormer, RandFormer).

Papers: arXiv:2111.11418, arXiv:2210.13452. Upstream: sail-sg/poolformer, sail-sg/metaformer (Apache-2.0).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.conv.conv import fitted
from blocks.registry import block
from blocks.registry.errors import SizeError

Border = Annotated[Annotated[int, Meta(ge=0, le=31)] | Literal["same"] | None, Meta(extra_json_schema={"added": "0.1"})]
Step = Annotated[int, Meta(ge=-31, le=31)]
Added = Annotated[bool, Meta(extra_json_schema={"added": "0.1"})]


@block(
    "pooling",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2111.11418",
    covers=("poolformer",),
)
class Pooling(nn.Module):
    """y = mean of the k x k neighbours - x; at the border, the mean of those inside the map.

    (B, C, H, W) -> (B, C, H, W). Taking x away undoes the skip of the residual that the mixer stands in. Raises
    ValueError for an even kernel, which has no centre.
    """

    def __init__(self, *, kernel_size: Annotated[int, Meta(ge=1, le=63)] = 3):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size, 1, self.kernel_size // 2, count_include_pad=False) - x


@block("max_pool", kind="downsample", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class MaxPool(nn.Module):
    """y = maximum of the k x k neighbours at every `stride`-th position; beyond the border there is nothing.

    (B, C, H, W) -> (B, C, H', W') with H' = floor((H + 2 padding - k) / stride) + 1; where nothing is stated the padding is floor(k / 2)
    for an odd kernel, and none for an even one, which cuts the map up. "same" is the border of `conv`. With `ceil` the last cells may be smaller.
    """

    def __init__(
        self,
        *,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 2,
        stride: Annotated[int, Meta(ge=1)] = 2,
        padding: Border = None,
        ceil: Added = False,
    ):
        super().__init__()
        self.kernel_size, self.stride, self.ceil = kernel_size, stride, ceil
        self.padding: Any = padding if padding is not None else kernel_size // 2 if kernel_size % 2 else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.padding == "same":
            return F.max_pool2d(_fitted(self, x, -math.inf), self.kernel_size, self.stride)
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil)


@block("avg_pool", kind="downsample", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class AvgPool(nn.Module):
    """y = mean of the k x k neighbours at every `stride`-th position, of those inside the map, or with `count_border` of the zeros
    beyond it, too.

    (B, C, H, W) -> (B, C, H', W') with H' = floor((H + 2 floor(k / 2) - k) / stride) + 1 for an odd kernel; an even one, which cuts the
    map up, has no border, and its last cells may be smaller: H' = ceil((H - k) / stride) + 1. `padding` states another border, without
    smaller cells, "same" that of `conv`.
    """

    def __init__(
        self,
        *,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 2,
        stride: Annotated[int, Meta(ge=1)] = 2,
        padding: Border = None,
        count_border: Added = False,
    ):
        super().__init__()
        is_odd = kernel_size % 2 == 1
        self.kernel_size, self.stride, self.count_border = kernel_size, stride, count_border
        self.padding: Any = padding if padding is not None else kernel_size // 2 if is_odd else 0
        self.ceil = padding is None and not is_odd

    def forward(self, x: Tensor) -> Tensor:
        if self.padding != "same":
            return F.avg_pool2d(
                x, self.kernel_size, self.stride, self.padding, self.ceil, count_include_pad=self.count_border
            )
        y = F.avg_pool2d(_fitted(self, x), self.kernel_size, self.stride)
        if self.count_border:
            return y
        return y / F.avg_pool2d(_fitted(self, torch.ones_like(x[:1, :1])), self.kernel_size, self.stride)


def _fitted(pool: MaxPool | AvgPool, x: Tensor, fill: float = 0.0) -> Tensor:
    return fitted(x, (pool.kernel_size,) * 2, (pool.stride,) * 2, fill)


@block("shift", kind="token_mixer", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class Shift(nn.Module):
    """y[h, w] = x[h + rows, w + columns], and zeros where that is beyond the map.

    (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, *, rows: Step = 0, columns: Step = 0):
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (-self.columns, self.columns, -self.rows, self.rows))


@block("global_pool", kind="pool", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class GlobalPool(nn.Module):
    """y = the mean of each channel over all positions.

    (B, C, H, W) -> (B, C, 1, 1).
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


@block("chunk", kind="downsample", abilities=("causal", "noncausal", "any_resolution"))
class Chunk(nn.Module):
    """y = the part `index` of the channels, which are cut into `of` parts.

    (B, C, H, W) -> (B, C / of, H, W), or (B, L, C) -> (B, L, C / of). Raises ValueError where `of` does not divide the width, and for a part that is not there.
    """

    def __init__(self, dim: int, *, index: Annotated[int, Meta(ge=0)] = 0, of: Annotated[int, Meta(ge=2)] = 2):
        super().__init__()
        if dim % of or index >= of:
            raise ValueError(f"part {index} of {of} of {dim} channels is not there")
        self.out_dim = dim // of
        self.start = index * self.out_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(1 if x.ndim == 4 else -1, self.start, self.out_dim)


@block(
    "pad_channels",
    kind="downsample",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:1610.02915",
    covers=("pyramidnet", "zero_padded_shortcut"),
)
class PadChannels(nn.Module):
    """y = [x | 0]: the channels of x, and behind them as many zeros as lead to `out_dim`: a shortcut without weights into a wider stream.

    (B, C, H, W) or (B, L, C) -> the same with `out_dim` channels. Raises ValueError for a narrower stream.
    """

    def __init__(self, dim: int, out_dim: int | None = None):
        super().__init__()
        self.out_dim = out_dim or dim
        self.added = self.out_dim - dim
        if self.added < 0:
            raise ValueError(f"zeros make {dim} channels no narrower: {self.out_dim} are asked for")

    def forward(self, x: Tensor) -> Tensor:
        if not self.added:
            return x
        last = x.movedim(1, -1) if x.ndim == 4 else x
        wider = F.pad(last, (0, self.added))
        return wider.movedim(-1, 1) if x.ndim == 4 else wider


@block("space_to_depth", kind="downsample", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class SpaceToDepth(nn.Module):
    """The k x k neighbours of every cell one behind the other along the channels, column by column.

    (B, C, H, W) -> (B, k^2 C, ceil(H / k), ceil(W / k)); below and to the right zeros fill up the last cells.
    """

    def __init__(self, dim: int, *, size: Annotated[int, Meta(ge=2)] = 2):
        super().__init__()
        self.size, self.out_dim = size, size * size * dim

    def forward(self, x: Tensor) -> Tensor:
        k, (_, _, H, W) = self.size, x.shape
        y = x.permute(0, 2, 3, 1)
        if H % k or W % k:
            y = F.pad(y, (0, 0, 0, -W % k, 0, -H % k))
        y = y.unflatten(2, (-1, k)).unflatten(1, (-1, k))  # rows, row in cell, columns, column in cell
        return y.permute(0, 1, 3, 4, 2, 5).flatten(3).permute(0, 3, 1, 2)


@block(
    "identity",
    kind="token_mixer",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2210.13452",
    covers=("identityformer",),
)
class Identity(nn.Module):
    """y = x: a token mixer that mixes nothing; the deploy form owns no module in its place."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x

    def fuse(self) -> None:
        return None


@block(
    "random_mixing",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal",),
    paper="arXiv:2210.13452",
    covers=("randformer",),
)
class RandomMixing(nn.Module):
    """y = P x over the L positions, P (L, L) the softmax of uniform random rows, drawn once and never trained.

    (B, L, C) -> (B, L, C) for the one L it was built for. P is part of the state: the rest of the net is trained to it.
    Raises ValueError for another length.
    """

    one_grid = True

    def __init__(self, *, input_size: tuple[int, ...] = (14, 14)):
        super().__init__()
        self.input_size, length = tuple(input_size), math.prod(input_size)
        self.weight = nn.Parameter(torch.empty(length, length), requires_grad=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.copy_(self.weight.uniform_().softmax(-1))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """L^2 C."""
        B, L, C = shape
        return {"matmul": B * L**2 * C}

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.weight):
            raise SizeError(
                f"this random_mixing was built for {len(self.weight)} positions and meets {x.shape[1]}; "
                "build the model with that input size"
            )
        return self.weight @ x
