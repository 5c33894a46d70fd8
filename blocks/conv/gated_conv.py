"""The gated convolution of MambaOut: a Mamba block without its recurrence.

Paper: arXiv:2405.07992, of gated CNNs: arXiv:1612.08083. Upstream: yuweihao/MambaOut (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import may_overwrite, run
from blocks.context import Context
from blocks.conv.conv import conv2d
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Act, slot


@block(
    "gated_conv",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2405.07992",
    covers=("gated_cnn", "mambaout"),
)
class GatedConv(nn.Module):
    """[g | i | c] = W_1 x; y = W_2(act(g) * [i | conv c]), conv depthwise k x k.

    (B, C, H, W) -> (B, C, H, W). g has int(ratio * C) channels, i and c together as many; c has int(conv_ratio * C) of
    them. Raises ValueError when that is more than there are, and for an even kernel, which has no centre.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 8 / 3,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 7,
        conv_ratio: Annotated[float, Meta(gt=0)] = 1.0,
        act: Act | None = slot("gelu"),
    ):
        super().__init__()
        hidden_dim, conv_dim = int(ratio * dim), int(conv_ratio * dim)
        if conv_dim > hidden_dim:
            raise ValueError(
                f"conv_ratio {conv_ratio:g} takes {conv_dim} channels of {hidden_dim}; the largest that works is {ratio:g}"
            )
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.widths = hidden_dim, hidden_dim - conv_dim, conv_dim
        self.fc1 = Dense(dim, 2 * hidden_dim)
        self.conv = conv2d(conv_dim, conv_dim, kernel_size, padding=kernel_size // 2, groups=conv_dim)
        self.act = act(hidden_dim) if act else None
        self.fc2 = Dense(hidden_dim, dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        gate, passed, spatial = self.fc1(x).split(self.widths, 1)
        if self.act is not None:
            gate = run(self.act, gate, ctx)
        factors = passed, self.conv(spatial)
        if not may_overwrite(gate):
            return self.fc2(gate * torch.cat(factors, 1))
        for part, factor in zip(gate.split(self.widths[1:], 1), factors, strict=True):
            part.mul_(factor)  # the gate is ours alone: writing over it saves two maps of the hidden width
        return self.fc2(gate)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return self.fc2.absorb_output(scale, shift)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return self.fc1.absorb_input(scale, shift)
