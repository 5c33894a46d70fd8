"""Convolutions along a sequence that mix channels, too, of what is around a token or of what is behind it; and the mean so far.

Papers: arXiv:2402.04882 (LMUFormer's tokenizer), arXiv:1609.03499 (causal convolutions).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import Recurrent, State, one_by_one, stepwise, zero_padding
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block(
    "sequence_conv",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "step", "any_resolution", "1d"),
    paper="arXiv:1609.03499",
    covers=("conv1d", "temporal_convolution"),
)
class SequenceConv(nn.Module):
    """y_t = b + sum_i W_i x_{t - r + i}, i = 0 ... k - 1: r = (k - 1) // 2 of the k tokens stand before t, or all others where `causal`.

    (B, L, C) -> (B, L, out_dim), zeros beyond both ends. `groups` of neighbouring channels are mixed apart, "all" each by itself. Padding counts as zeros; the
    state of a causal one holds the last k - 1 inputs (B, k - 1, C). Raises ValueError for a state or packed sequences where it is not causal.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Count = 3,
        groups: Count | Literal["all"] = 1,
        causal: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        self.out_dim, self.causal = out_dim or dim, causal
        self.conv = nn.Conv1d(dim, self.out_dim, kernel_size, groups=dim if groups == "all" else groups, bias=bias)

    def state_size(self, length: int = 0) -> int:
        return (self.conv.kernel_size[0] - 1) * self.conv.in_channels if self.causal else 0

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if self.causal:
            return stepwise(self.mix, self.mix_packed, self.path, x, ctx)
        refuse_state(ctx, "that needs a sequence_conv with `causal`")
        if not x.shape[0] * x.shape[1]:
            return x.new_empty(*x.shape[:2], self.out_dim)
        around = self.conv.kernel_size[0] - 1
        x = zero_padding(x, token_mask(x, ctx)).transpose(1, 2)
        return self.conv(F.pad(x, (around // 2, around - around // 2))).transpose(1, 2)  # type: ignore[no-any-return]

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        B, L, C = x.shape
        behind = self.conv.kernel_size[0] - 1
        before = x.new_zeros(B, behind, C) if state is None else state[0].to(x.dtype)
        joined = torch.cat([before, x], 1)
        y = self.conv(joined.transpose(1, 2)).transpose(1, 2) if L else x.new_empty(B, 0, self.out_dim)
        count = joined.new_full((B,), L, dtype=torch.int64) if mask is None else mask.sum(1)
        last = count[:, None] + torch.arange(behind, device=x.device)
        return y, (joined.gather(1, last.unsqueeze(-1).expand(-1, -1, C)),)

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        return one_by_one(self.mix, x, state, borders, ctx)


@block(
    "running_mean",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2402.04882",
    covers=("cumulative_mean",),
)
class RunningMean(Recurrent):
    """y_t = (x_1 + ... + x_t) / t: what an average over a sequence is so far, so that a head behind it can answer at any time.

    (B, L, C) -> (B, L, C), summed in float32. The state is the sum (B, C) and the number of tokens (B,).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def state_size(self, length: int = 0) -> int:
        return self.dim + 1

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        wide = torch.promote_types(x.dtype, torch.float32)
        total, seen = (0, 0) if state is None else (state[0].to(wide), state[1])
        sums = x.to(wide).cumsum(1) + (total if state is None else total.unsqueeze(1))  # type: ignore[union-attr]
        steps = torch.arange(1, x.shape[1] + 1, device=x.device)
        count = steps.expand(x.shape[:2]) if state is None else steps + seen.unsqueeze(1)  # type: ignore[union-attr]
        fresh = torch.full_like(count[:, :1].sum(1), x.shape[1]) if mask is None else mask.sum(1)
        after = x.to(wide).sum(1) + total  # padding is zeros
        return (sums / count.unsqueeze(-1)).to(x.dtype), (after, fresh + seen)
