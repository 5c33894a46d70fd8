"""A short causal depthwise convolution over a sequence, as most recurrent mixers have one inside. Paper: arXiv:2312.00752."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor

from blocks.context import Context
from blocks.recurrent import Recurrent, State, depthwise, short_conv, short_conv_macs
from blocks.registry import block


@block(
    "causal_conv",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2312.00752",
    covers=("short_conv",),
)
class CausalConv(Recurrent):
    """y_t = silu(b + sum_i w_i x_{t-k+1+i}), each channel by itself: a token sees itself and the k - 1 before it.

    (B, L, C) -> (B, L, C). The state holds the last k - 1 inputs (B, C, k - 1).
    """

    def __init__(self, dim: int, *, kernel_size: Annotated[int, Meta(ge=2)] = 4, bias: bool = True):
        super().__init__()
        self.conv1d = depthwise(dim, kernel_size, bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"convolution": short_conv_macs(shape[0], shape[1], self.conv1d)}

    def state_size(self, length: int = 0) -> int:
        return self.conv1d.in_channels * (self.conv1d.kernel_size[0] - 1)

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        y, last = short_conv(x, self.conv1d, state[0] if state else None, mask)
        return y, (last,)
