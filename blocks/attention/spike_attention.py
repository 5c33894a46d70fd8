"""Attention of spikes: products of zeros and ones, without a softmax.

Paper: arXiv:2404.03663 (Meta-SpikeFormer). Upstream: BICLab/Spike-Driven-Transformer-V2.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.primitives.spikes import Lif, Positive
from blocks.registry import block
from blocks.registry.slots import Slot, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "spike_attention",
    kind="token_mixer",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2404.03663",
    covers=("spike_driven_self_attention", "metaspikformer"),
)
class SpikeAttention(nn.Module):
    """y = conv_o(lif_o(scale * q (k^T v))), q = lif(conv_q x), k and v alike, of each head in each time step.

    (B, C, H, W) or (B, C, T, H, W) -> the same shape. `conv` is the map before each of the three and behind all; the last neuron fires at
    `out_threshold`, the others at 1. Of `num_heads` and `head_dim` one decides, both may; with neither, heads are 32 wide. Raises
    ValueError when heads do not divide C.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        conv: Slot = slot("conv_norm_act", kernel_size=1, norm="batch_norm"),
        scale: Positive = 1.0,
        out_threshold: Positive = 0.5,
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        if self.num_heads * self.head_dim != dim:
            raise ValueError(f"{self.num_heads} heads of {self.head_dim} channels are no whole of {dim}")
        self.scale = scale
        self.q, self.k, self.v, self.proj = (conv(dim) for _ in range(4))
        self.fire, self.fire_out = Lif(), Lif(threshold=out_threshold)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """k^T v and its product with q: 2 T H W C head_dim."""
        (B, C), positions = shape[:2], 1
        for size in shape[2:]:
            positions *= size
        return {"matmul": 2 * B * positions * C * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        q, k, v = (self._heads(self.fire(run(conv, x, ctx))) for conv in (self.q, self.k, self.v))
        y = q @ (k.transpose(-2, -1) @ v) * self.scale
        y = y.transpose(-3, -2).flatten(-2).unflatten(-2, x.shape[-2:]).movedim(-1, -3)
        return run(self.proj, self.fire_out(y if x.ndim == 4 else y.transpose(1, 2)), ctx)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, H*W, head_dim); of a clip (B, T, heads, H*W, head_dim)."""
        x = x if x.ndim == 4 else x.transpose(1, 2)
        return x.flatten(-2).unflatten(-2, (self.num_heads, self.head_dim)).transpose(-2, -1)
