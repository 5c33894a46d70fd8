"""Softmax attention in the operators that runtimes fuse: one turn for queries, keys and values, and the scale inside their map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blocks.attention.attention import Attention
from blocks.chain import run
from blocks.context import Context
from blocks.primitives.linears import Dense


def is_plain(module: nn.Module) -> bool:
    """Whether an attention looks at all of its own tokens, by maps alone: one dense map for queries, keys and values."""
    return (
        type(module) is Attention
        and not (module.causal or module.cross)
        and module.joint
        and type(module.qkv) is Dense
        and module.rope is None
        and module.q_norm is None
        and module.k_norm is None
        and module.num_kv_heads == module.num_heads
    )


class PlainHeads(nn.Module):
    """`Attention` of tokens (B, L, C) -> (B, L, C), where `is_plain`. Its weights are the attention's, those of the queries scaled."""

    takes_ctx, layout = True, "BLC"

    def __init__(self, attention: Attention):
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        before: Any = attention.qkv
        self.qkv = Dense(before.in_features, before.out_features, bias=before.bias is not None)
        self.proj = attention.proj
        with torch.no_grad():
            factors = torch.ones(before.out_features, dtype=before.weight.dtype)
            factors[: self.num_heads * self.head_dim] = attention.scale
            self.qkv.weight = nn.Parameter(before.weight * factors[:, None], requires_grad=False)
            if before.bias is not None:
                self.qkv.bias = nn.Parameter(before.bias * factors, requires_grad=False)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        qkv = run(self.qkv, x, ctx).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return run(self.proj, y.transpose(1, 2).flatten(2), ctx)
