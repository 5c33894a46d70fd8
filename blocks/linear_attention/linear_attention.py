"""Linear attention (Katharopoulos et al., arXiv:2006.16236): a positive feature map in place of the softmax."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.ops.linear_attention import causal_linear_attention, linear_attention
from blocks.ops.masks import refuse_state, token_mask
from blocks.registry import block
from blocks.slots import Linear, Slot, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "linear_attention",
    kind="token_mixer",
    abilities=("causal", "noncausal", "step", "any_resolution"),
    paper="arXiv:2006.16236",
)
class LinearAttention(nn.Module):
    """y = W_o concat_h(phi(q) S / (phi(q) z + eps)), S = sum phi(k) v^T, z = sum phi(k), phi = elu + 1 or relu.

    (B, C, H, W) or (B, L, C) -> the same shape, at a cost linear in the positions. The sums run over all positions, or
    up to t where `causal`, and are taken in float32. `local` is a block that mixes the values, a small depthwise
    convolution as a rule, and whose output is added to the heads'. `ctx.mask` keeps padding out of the sums;
    `ctx.state` continues a causal sequence, holding S (B, heads, head_dim, head_dim) and z (B, heads, head_dim).
    Raises ValueError when heads do not divide, for packed sequences, and for a state where `causal` is false or `local`
    is set.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        feature_map: Literal["elu", "relu"] = "elu",
        causal: bool = False,
        eps: Annotated[float, Meta(gt=0)] = 1e-6,
        bias: bool = False,
        out_bias: bool | None = None,
        local: Slot | None = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.feature_map, self.causal, self.eps = feature_map, causal, eps
        width = self.num_heads * self.head_dim
        self.qkv = linear(dim, 3 * width, bias=bias)
        self.local = local(width) if local else None
        self.proj = linear(width, dim, bias=bias if out_bias is None else out_bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """k^T v, q (k^T v) and q sum(k): L num_heads (2 head_dim^2 + head_dim), where every position sees all."""
        if self.causal:
            return {}  # its recurrence is an op, and counted there
        B, L = shape[0], math.prod(shape[2:]) if len(shape) == 4 else shape[1]
        return {"matmul": B * L * self.num_heads * (2 * self.head_dim**2 + self.head_dim)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        size = x.shape[2:] if x.ndim == 4 else None
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2) if size else x
        qkv = run(self.qkv, tokens, ctx)
        y = self._attend(qkv, token_mask(tokens, ctx), ctx).to(x.dtype)
        if self.local is not None:
            values = qkv.chunk(3, -1)[2]
            mixed = run(self.local, _image(values, size) if size else values, ctx)
            y = y + (mixed.permute(0, 2, 3, 1).flatten(1, 2) if size else mixed)
        y = run(self.proj, y, ctx)
        return _image(y, size) if size else y

    def _attend(self, qkv: Tensor, mask: Tensor | None, ctx: Context | None) -> Tensor:
        """(B, L, 3 * width) -> (B, L, width), all heads side by side."""
        wide = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
        q, k, v = wide.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        q, k = self._features(q), self._features(k)
        if mask is not None:
            k = k * mask[:, None, :, None]
        if self.causal and self.local is None:
            y = self._continue(q, k, v, ctx)
        else:
            refuse_state(ctx, "that needs a linear_attention with `causal` and without `local`")
            y = causal_linear_attention(q, k, v, self.eps)[0] if self.causal else linear_attention(q, k, v, self.eps)
        return y.transpose(1, 2).flatten(2)

    def _continue(self, q: Tensor, k: Tensor, v: Tensor, ctx: Context | None) -> Tensor:
        states = ctx.state if ctx is not None else None
        y, state = causal_linear_attention(q, k, v, self.eps, states.get(self.path) if states is not None else None)
        if states is not None:
            states[self.path] = state
        return y

    def _features(self, x: Tensor) -> Tensor:
        return F.elu(x) + 1 if self.feature_map == "elu" else F.relu(x)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.qkv.absorb_input(scale, shift))  # type: ignore[operator]


def _image(tokens: Tensor, size: torch.Size) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W), a view."""
    return tokens.unflatten(1, size).permute(0, 3, 1, 2)
