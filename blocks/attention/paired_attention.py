"""Attention that looks at the stream and, beside it, at what stood somewhere before, as in Zamba. Papers: arXiv:2405.16712, arXiv:2411.15242."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from blocks.attention.attention import Attention, Turned
from blocks.chain import run
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import Linear, Norm, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "paired_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2405.16712",
    covers=("zamba_attention",),
)
class PairedAttention(Attention):
    """y = W_o attention(norm [x | e]): causal attention over 2 C channels, of which e are those of the slot `reads`.

    (B, L, C) -> (B, L, C). The heads are those of 2 C channels; q, k and v have maps of their own, of the kind `linear`. In Zamba e are the
    embeddings of the tokens, and keys count `key_scale` = sqrt(2) times, since half of the channels of a head are new. Without `reads` e is x.
    The state is that of `attention`. Raises ValueError when heads do not divide, and where nothing was written.
    """

    def __init__(
        self,
        dim: int,
        *,
        reads: Annotated[str, Meta(min_length=1)] | None = None,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        num_kv_heads: Count | None = None,
        norm: Norm | None = slot("rms_norm"),
        linear: Linear = slot("dense"),
        out_linear: Linear = slot("dense"),
        bias: bool = False,
        rope: Turned = None,
        key_scale: Annotated[float, Meta(gt=0)] = 1.0,
    ):
        super().__init__(
            2 * dim,
            num_heads=num_heads,
            head_dim=head_dim,
            num_kv_heads=num_kv_heads,
            causal=True,
            bias=bias,
            linear=linear,
            rope=rope,
            key_scale=key_scale,
            apart=True,
            out_linear=out_linear,
        )
        self.reads = reads
        self.norm = norm(2 * dim) if norm else None
        self.proj = out_linear(self.num_heads * self.head_dim, dim, bias=bias)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        beside = x
        if self.reads is not None:
            written = list(ctx.read(self.reads).values()) if ctx is not None else []
            if not written:
                raise ValueError(
                    f'nothing has written `{self.reads}`; next: {{ block = "remember", writes = ... }} before'
                )
            beside = written[-1]
        pair = torch.cat([x, beside], -1)
        return super().forward(pair if self.norm is None else run(self.norm, pair, ctx), ctx)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return False
