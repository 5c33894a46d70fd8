"""Squeeze and excite: every channel gated by what the whole map holds. Paper: arXiv:1709.01507."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Act, slot


@block(
    "squeeze_excite",
    kind="channel_mixer",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:1709.01507",
    covers=("se", "squeeze_and_excitation"),
)
class SqueezeExcite(nn.Module):
    """y = x * gate(W_2 act(W_1 mean x)), the mean over all positions; W_1: C -> max(1, int(ratio * C)).

    (B, C, H, W) or (B, L, C) -> the same shape.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 0.25,
        act: Act = slot("relu"),
        gate: Act = slot("sigmoid"),
    ):
        super().__init__()
        hidden_dim = max(1, int(dim * ratio))
        self.down = Dense(dim, hidden_dim)
        self.act = act(hidden_dim)
        self.up = Dense(hidden_dim, dim)
        self.gate = gate(dim)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        positions = (2, 3) if x.ndim == 4 else (1,)
        summary = x.mean(positions, keepdim=True)
        return x * self.gate(self.up(self.act(self.down(summary))))
