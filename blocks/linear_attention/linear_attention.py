"""Linear attention (Katharopoulos et al., arXiv:2006.16236): a feature map in place of the softmax."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.attention.rotary import positions_after
from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.feature_maps import Favor, FeatureMap, Hedgehog, plain, reweighted, width_of
from blocks.ops.linear_attention import causal_linear_attention, linear_attention
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import State, one_by_one, stepwise
from blocks.registry import block
from blocks.registry.slots import Linear, Slot, slot

Count = Annotated[int, Meta(ge=1)]
Added = Annotated[Count | None, Meta(extra_json_schema={"added": "0.1"})]


@block(
    "linear_attention",
    kind="token_mixer",
    abilities=("causal", "noncausal", "step", "any_resolution"),
    paper="arXiv:2006.16236",
    covers=("based", "rebased", "performer", "hedgehog", "cosformer"),
)
class LinearAttention(nn.Module):
    """y = W_o concat_h(phi(q) S / (phi(q) z + eps)), S = sum phi(k) v^T, z = sum phi(k), phi a feature map.

    (B, C, H, W) or (B, L, C) -> the same shape, at a cost linear in the positions. The sums run over all positions, or
    up to t where `causal`, and are taken in float32. Queries and keys are `key_dim` wide per head, as wide as values
    without a value. The feature map `cosformer` weighs by position, out of `max_length`, or of what there is where not
    `causal`. `local` is a block that mixes the values, a small depthwise convolution as a rule, and whose output is added
    to the heads'. `ctx.mask` keeps padding out of the sums; `ctx.state` continues a causal sequence, holding
    S (B, heads, features, head_dim), z (B, heads, features) and for `cosformer` the number of tokens (B,).
    Raises ValueError when heads do not divide, for a state or packed sequences where `causal` is false or `local` is set,
    and for a causal `cosformer` without `max_length`.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        feature_map: FeatureMap = "elu",
        causal: bool = False,
        eps: Annotated[float, Meta(gt=0)] = 1e-6,
        bias: bool = False,
        out_bias: bool | None = None,
        local: Slot | None = None,
        linear: Linear = slot("dense"),
        key_dim: Added = None,
        max_length: Added = None,
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.feature_map, self.causal, self.eps = feature_map, causal, eps
        self.key_dim, self.max_length = key_dim or self.head_dim, max_length
        if causal and feature_map == "cosformer" and max_length is None:
            raise ValueError("a causal linear_attention with the feature map `cosformer` needs `max_length`")
        keys, width = self.num_heads * self.key_dim, self.num_heads * self.head_dim
        self.qkv = linear(dim, 2 * keys + width, bias=bias)
        self.features: Any = None
        if feature_map == "favor":
            self.features = Favor(self.key_dim)
        if feature_map == "hedgehog":
            self.features = Hedgehog(self.num_heads, self.key_dim)
        self.local = local(width) if local else None
        self.proj = linear(width, dim, bias=bias if out_bias is None else out_bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """k^T v, q (k^T v) and q sum(k) of F features: L num_heads (2 F head_dim + F); causal, 4 L num_heads F (head_dim + 1)
        operations of the recurrence."""
        B, L = shape[0], math.prod(shape[2:]) if len(shape) == 4 else shape[1]
        features = B * L * self.num_heads * width_of(self.feature_map, self.key_dim)
        if self.causal:
            return {"scan": 4 * features * (self.head_dim + 1)}
        return {"matmul": features * (2 * self.head_dim + 1)}

    def state_size(self, length: int = 0) -> int:
        sums = self.num_heads * width_of(self.feature_map, self.key_dim) * (self.head_dim + 1)
        return sums + (self.feature_map == "cosformer")

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if self.causal and self.local is None and x.ndim == 3:
            return stepwise(self.mix, self.mix_packed, self.path, x, ctx)
        refuse_state(ctx, "that needs a linear_attention with `causal` and without `local`")
        size = x.shape[2:] if x.ndim == 4 else None
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2) if size else x
        qkv = run(self.qkv, tokens, ctx)
        y, _ = self._attend(qkv, None, token_mask(tokens, ctx))
        if self.local is not None:
            values = qkv[..., 2 * self.num_heads * self.key_dim :]
            mixed = run(self.local, _image(values, size) if size else values, ctx)
            y = y + (mixed.permute(0, 2, 3, 1).flatten(1, 2) if size else mixed)
        y = run(self.proj, y, ctx)
        return _image(y, size) if size else y

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        y, state = self._attend(run(self.qkv, x), state, mask)
        return run(self.proj, y), state

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        return one_by_one(self.mix, x, state, borders, ctx)

    def _attend(self, qkv: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """(B, L, widths of q, k and v) -> (B, L, heads * head_dim), all heads side by side; the state."""
        wide = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
        keys = self.num_heads * self.key_dim
        parts = wide.split([keys, keys, self.num_heads * self.head_dim], -1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        sums, position = (None, ()) if state is None else (state[:2], state[2:])
        rest: State = ()
        if self.feature_map == "cosformer":
            where, after = positions_after(qkv, position[0] if position else None, mask)
            length = self.max_length or qkv.shape[1]
            q, k, rest = reweighted(q, where, length), reweighted(k, where, length), (after,)
        else:
            q, k = self._mapped(q, True), self._mapped(k, False)
        if mask is not None:
            k = k * mask[:, None, :, None]
        if self.causal:
            y, sums = causal_linear_attention(q, k, v, self.eps, sums)  # type: ignore[arg-type]
            return y.transpose(1, 2).flatten(2).to(qkv.dtype), (*sums, *rest)
        return linear_attention(q, k, v, self.eps).transpose(1, 2).flatten(2).to(qkv.dtype), rest

    def _mapped(self, x: Tensor, query: bool) -> Tensor:
        return plain(x, self.feature_map) if self.features is None else self.features(x, query)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.qkv.absorb_input(scale, shift))  # type: ignore[operator]


def _image(tokens: Tensor, size: torch.Size) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W), a view."""
    return tokens.unflatten(1, size).permute(0, 3, 1, 2)
