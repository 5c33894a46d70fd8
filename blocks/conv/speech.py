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
from blocks.ops.masks import refuse_state, token_mask
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

    (B, T, F) -> (B, ceil(T / 4), out_dim). A mask in ctx is replaced by that of the steps: of l frames ceil((l + 1) / 2) are left, twice.
    """

    def __init__(self, dim: int, out_dim: int | None = None, *, filters: Count | None = None):
        super().__init__()
        self.out_dim = out_dim or dim
        width = filters or self.out_dim
        self.conv1 = nn.Conv2d(1, width, 3, 2)
        self.dw_conv = nn.Conv2d(width, width, 3, 2, groups=width)
        self.pw_conv = nn.Conv2d(width, width, 1)
        self.linear = Dense(-(-dim // 4) * width, self.out_dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "its convolutions look ahead")
        mask = token_mask(x, ctx)
        z = self.subsampled(x)
        if ctx is not None and mask is not None:
            lengths = mask.sum(1)
            for _ in range(2):
                lengths = (lengths + 2) // 2
            ctx.mask = torch.arange(z.shape[1], device=x.device) < lengths.unsqueeze(1)
        return self.linear(z)

    def subsampled(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, ceil(T / 4), ceil(F / 4) * filters), the filters of a frequency side by side."""
        z = F.relu(self.conv1(F.pad(x.unsqueeze(1), (0, 1, 0, 1))))
        z = F.relu(self.pw_conv(self.dw_conv(F.pad(z, (0, 1, 0, 1)))))
        return z.permute(0, 2, 3, 1).flatten(2)


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

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"convolution": shape[0] * -(-shape[1] // 2) * self.dw_conv.weight.numel()}

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
    abilities=("noncausal", "any_resolution", "1d"),
    paper="arXiv:2206.00888",
)
class TimeRecovery(nn.Module):
    """y_t = s_t + W x_{t // 2} + b: every step twice, and s, what stood there before the steps were halved, of the slot `reads`.

    (B, L / 2, C) -> (B, L, out_dim), L being that of s; without it 2 (L / 2). The mask of ctx is that of s again.
    """

    def __init__(
        self, dim: int, out_dim: int | None = None, *, reads: Annotated[str, Meta(min_length=1)] | None = None
    ):
        super().__init__()
        self.out_dim, self.reads = out_dim or dim, reads
        self.linear = Dense(dim, self.out_dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "it looks ahead")
        token_mask(x, ctx)
        y = self.linear(x.repeat_interleave(2, 1))
        before = list(ctx.read(self.reads).values()) if ctx is not None and self.reads is not None else []
        masks = list(ctx.read(f"{self.reads}.mask").values()) if ctx is not None else []
        if ctx is not None and ctx.mask is not None:
            ctx.mask = masks[-1] if masks else ctx.mask.repeat_interleave(2, 1)
        return y if not before else before[-1] + y[:, : before[-1].shape[1]]
