"""The short convolution of LFM2: a causal depthwise convolution of a few taps between two gates. Paper: arXiv:2511.23404.

Names of the state are those of its public checkpoints.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor

from blocks.chain import run
from blocks.context import Context
from blocks.recurrent import Recurrent, State, depthwise, short_conv, short_conv_macs
from blocks.registry import block
from blocks.registry.slots import Linear, slot


@block(
    "gated_short_conv",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2511.23404",
    covers=("lfm2", "lfm2_short_conv", "double_gated_conv"),
)
class GatedShortConv(Recurrent):
    """y_t = W_out(c_t * sum_i w_i (b * x')_{t-k+1+i}), [b | c | x'] = W_in x, each channel by itself.

    (B, L, C) -> (B, L, C). `bias` holds for both maps and the convolution. The state holds the last k - 1 products b * x'
    (B, C, k - 1).
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: Annotated[int, Meta(ge=2)] = 3,
        bias: bool = False,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.in_proj = linear(dim, 3 * dim, bias=bias)
        self.conv = depthwise(dim, kernel_size, bias)
        self.out_proj = linear(dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"convolution": short_conv_macs(shape[0], shape[1], self.conv)}

    def state_size(self, length: int = 0) -> int:
        return self.conv.in_channels * (self.conv.kernel_size[0] - 1)

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        before, after, value = run(self.in_proj, x).chunk(3, -1)
        y, last = short_conv(before * value, self.conv, state[0] if state else None, mask, act=None)
        return run(self.out_proj, after * y), (last,)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.in_proj.absorb_input(scale, shift))  # type: ignore[operator]
