"""Fewer steps of time: the stem of speech encoders, and a half of the steps for the layers between two blocks. Paper: arXiv:2206.00888.

Upstream: kssteven418/Squeezeformer (Apache-2.0). T is here the number of frames, F their features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.conv.conv import conv2d
from blocks.ops.masks import refuse_state, token_mask
from blocks.places import refuse_places
from blocks.primitives.linears import Dense
from blocks.recurrent import zero_padding
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block(
    "conv_subsampling",
    kind="stem",
    layout="BLC",
    abilities=("noncausal", "any_resolution", "1d"),
    paper="arXiv:2206.00888",
    covers=("speech_subsampling",),
)
class ConvSubsampling(nn.Module):
    """z = relu(W_2 DW_2(relu(W_1 * x))): frames as a picture of T x F, two 3 x 3 convolutions of stride 2 with one row and column of zeros
    behind the last, the second one a depthwise and a pointwise; y = W z + b of the `filters` of all frequencies of a step.

    (B, T, F) -> (B, T // 2 // 2, out_dim), one step of few frames. A mask in ctx is replaced by that of the steps: of l frames ceil((l + 1) / 2) are left, twice.
    The last of them look beyond their text: frames of padding count as zeros, or with `hides_padding` false, as in the authors' code, as
    what stands there.
    """

    def __init__(
        self, dim: int, out_dim: int | None = None, *, filters: Count | None = None, hides_padding: bool = True
    ):
        super().__init__()
        self.hides_padding = hides_padding
        self.out_dim = out_dim or dim
        width = filters or self.out_dim
        self.conv1 = conv2d(1, width, 3, stride=2)
        self.dw_conv = conv2d(width, width, 3, stride=2, groups=width)
        self.pw_conv = conv2d(width, width, 1)
        self.linear = Dense(halved(halved(dim)) * width, self.out_dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "its convolutions look ahead")
        mask = token_mask(x, ctx)
        z = self.subsampled(zero_padding(x, mask) if self.hides_padding else x)
        if ctx is not None and mask is not None:
            lengths = mask.sum(1)
            for _ in range(2):
                lengths = (lengths + 2) // 2
            ctx.mask = torch.arange(z.shape[1], device=x.device) < lengths.unsqueeze(1)
        return self.linear(z)

    def subsampled(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, T // 2 // 2, F // 2 // 2 * filters), the filters of a frequency side by side."""
        if not x.shape[0] * x.shape[1]:
            steps = halved(halved(x.shape[1])) if x.shape[1] else 0
            return x.new_empty(len(x), steps, self.linear.in_features)
        z = F.relu(self.conv1(bordered(x.unsqueeze(1))))
        z = F.relu(self.pw_conv(self.dw_conv(bordered(z))))
        return z.permute(0, 2, 3, 1).flatten(2)


def halved(size: int) -> int:
    """What a kernel of 3 with stride 2 and one zero behind leaves of a side; 1 of 1."""
    return max(size // 2, 1)


def bordered(x: Tensor) -> Tensor:
    """(B, C, T, F) with a zero behind the last row and column, two where there is one alone."""
    rows, columns = (1 if size > 1 else 2 for size in x.shape[2:])
    return F.pad(x, (0, columns, 0, rows))


@block(
    "time_reduction",
    kind="downsample",
    layout="BLC",
    abilities=("noncausal", "any_resolution", "1d"),
    paper="arXiv:2206.00888",
    covers=("temporal_unet",),
)
class TimeReduction(nn.Module):
    """y_t = W sum_i w_i x_{2 t + i} + b, i = 0 ... k - 1, each channel by itself, with k - 2 zeros behind the last step.

    (B, L, C) -> (B, ceil(L / 2), out_dim). x, and the mask of ctx, stand in the slot `writes` for `time_recovery`; every second of the mask is left.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Annotated[int, Meta(ge=2)] = 5,
        writes: Annotated[str, Meta(min_length=1)] | None = None,
    ):
        super().__init__()
        self.out_dim, self.writes = out_dim or dim, writes
        self.dw_conv = nn.Conv1d(dim, dim, kernel_size, 2, groups=dim)
        self.pw_conv = Dense(dim, self.out_dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "it looks ahead")
        mask = token_mask(x, ctx)
        if ctx is not None and self.writes is not None:
            ctx.write(self.writes, self.path, x)
            if mask is not None:
                ctx.write(f"{self.writes}.mask", self.path, mask)
        if ctx is not None and mask is not None:
            ctx.mask = mask[:, ::2]
        if not x.shape[1]:
            return x.new_empty(*x.shape[:2], self.out_dim)
        k = self.dw_conv.kernel_size[0]
        y = self.dw_conv(F.pad(zero_padding(x, mask).transpose(1, 2), (0, k - 2 + x.shape[1] % 2)))
        return self.pw_conv(y.transpose(1, 2))


@block(
    "time_recovery",
    kind="downsample",
    layout="BLC",
    abilities=("causal", "any_resolution", "1d"),
    paper="arXiv:2206.00888",
)
class TimeRecovery(nn.Module):
    """y_t = s_t + W x_{t // 2} + b: every step twice, and s, what stood there before the steps were halved, of the slot `reads`.

    (B, L / 2, C) -> (B, L, out_dim), L being that of s; without it 2 (L / 2). The mask of ctx is that of s again.
    Raises ValueError for a mask where nothing says what it was.
    """

    def __init__(
        self, dim: int, out_dim: int | None = None, *, reads: Annotated[str, Meta(min_length=1)] | None = None
    ):
        super().__init__()
        self.out_dim, self.reads = out_dim or dim, reads
        self.linear = Dense(dim, self.out_dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "a sequence of half of the steps cannot stop at any")
        token_mask(x, ctx)
        y = self.linear(x.repeat_interleave(2, 1))
        before = list(ctx.read(self.reads).values()) if ctx is not None and self.reads is not None else []
        masks = list(ctx.read(f"{self.reads}.mask").values()) if ctx is not None else []
        if ctx is not None and masks:
            ctx.mask = masks[-1]
        else:
            refuse_places(self, ctx)
        return y if not before else before[-1] + y[:, : before[-1].shape[1]]
