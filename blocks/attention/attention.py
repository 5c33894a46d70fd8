"""Softmax attention with heads, grouped keys, rotary positions, a window, a causal and a cross form.

Papers: arXiv:1706.03762, arXiv:2305.13245 (grouped keys), arXiv:2104.09864 (rotary positions).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.cache import look_back, seen_before
from blocks.attention.heads import check_divides, split_heads
from blocks.attention.rotary import Rope, check_rope, positions_after, rotated, score_scale
from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import State, samples, stepwise
from blocks.registry import block
from blocks.registry.slots import Linear, Norm, slot

Count = Annotated[int, Meta(ge=1)]
Drop = Annotated[float, Meta(ge=0, lt=1, extra_json_schema={"added": "0.1"})]
Window = Annotated[Count | None, Meta(extra_json_schema={"added": "0.1"})]
Turned = Annotated[Rope | None, Meta(extra_json_schema={"added": "0.1"})]
Neutral = Annotated[bool, Meta(extra_json_schema={"added": "0.1"})]


@block(
    "attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "cross", "step", "any_resolution"),
    paper="arXiv:1706.03762",
    covers=(
        "multi_head_attention",
        "self_attention",
        "grouped_query_attention",
        "multi_query_attention",
        "mha",
        "gqa",
        "mqa",
    ),
)
class Attention(nn.Module):
    """y = W_o concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h, with [q | k | v] = W_qkv x.

    (B, L, C) -> (B, L, C). Of `num_heads` and `head_dim` one decides, both may; with neither, heads are 32 wide.
    `num_kv_heads` keys and values are each shared by num_heads / num_kv_heads neighbouring heads. `causal`: position t
    sees those up to t. `cross`: keys and values come from `ctx.memory` (B, M, C). `qk_norm` norms each query and key, or without
    `norm_heads` those of all heads of a token as one vector.
    With `joint` false q has a map of its own, W_q, and [k | v] = W_kv x, as a `cross` attention always has.
    `bias` holds for the first maps, and for W_o unless `out_bias` says otherwise. `ctx.mask` hides padding. In training
    `attn_drop` of the weights and `proj_drop` of the outputs are dropped. `rope` turns queries and keys by their
    positions (blocks.attention.rotary). Keys count `key_scale` times. With a `window` a token of a causal sequence sees itself and window - 1 before it.
    The state of a causal attention holds the keys and values (B, M, num_kv_heads, head_dim) that later tokens may see, and
    the number of tokens so far (B,); after padding also which of the M are tokens (B, M).
    Raises ValueError when heads do not divide, for `causal` with `cross`, without a memory to look at, for a window or
    a state or packed sequences where `causal` is false, and for rotary positions with `cross` or that do not fit.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        num_kv_heads: Count | None = None,
        causal: bool = False,
        cross: bool = False,
        bias: bool = False,
        out_bias: bool | None = None,
        qk_norm: Norm | None = None,
        linear: Linear = slot("dense"),
        attn_drop: Drop = 0.0,
        proj_drop: Drop = 0.0,
        rope: Turned = None,
        window: Window = None,
        joint: Neutral = True,
        norm_heads: Neutral = True,
        key_scale: Annotated[float, Meta(gt=0, extra_json_schema={"added": "0.1"})] = 1.0,
    ):
        super().__init__()
        self.attn_drop, self.proj_drop = attn_drop, proj_drop
        self.rope, self.window = rope, window
        if window is not None and not causal:
            raise ValueError("a window is of the tokens before: it needs a causal attention")
        if causal and cross:
            raise ValueError("a causal attention looks at its own past and a cross attention at the memory; choose one")
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.num_kv_heads = num_kv_heads or self.num_heads
        check_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        check_rope(rope, self.head_dim)
        if rope is not None and cross:
            raise ValueError("a cross attention has no rotary positions: a memory has none")
        self.scale = self.head_dim**-0.5 * score_scale(rope) * key_scale
        self.causal, self.cross, self.joint = causal, cross, joint and not cross
        width, kv_width = self.num_heads * self.head_dim, 2 * self.num_kv_heads * self.head_dim
        if self.joint:
            self.qkv = linear(dim, width + kv_width, bias=bias)
        else:
            self.q = linear(dim, width, bias=bias)
            self.kv = linear(dim, kv_width, bias=bias)
        self.norm_heads = norm_heads
        self.q_norm = qk_norm(self.head_dim if norm_heads else width) if qk_norm else None
        self.k_norm = qk_norm(self.head_dim if norm_heads else kv_width // 2) if qk_norm else None
        self.proj = linear(width, dim, bias=bias if out_bias is None else out_bias)

    def macs(self, shape: tuple[int, ...], ctx: Context | None = None) -> dict[str, int]:
        """Scores and sums: 2 L M num_heads head_dim, M the positions looked at."""
        B, L, _ = shape
        keys = ctx.memory.shape[1] if self.cross and ctx is not None and ctx.memory is not None else L
        return {"attention": 2 * B * L * keys * self.num_heads * self.head_dim}

    def state_size(self, length: int = 0) -> int:
        positions = length if self.window is None else min(length, self.window - 1)
        return 2 * positions * self.num_kv_heads * self.head_dim + 1

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if self.causal:
            return stepwise(self.mix, self.mix_packed, self.path, x, ctx)
        refuse_state(ctx, "that needs an attention with `causal`")
        q, k, v = self._queries_keys_values(x, ctx)
        if self.rope is not None:
            where, _ = positions_after(x, None, None)
            q, k = rotated(q, where, self.rope), rotated(k, where, self.rope)
        mask = None if self.cross else token_mask(x, ctx)
        return self._attend(q, k, v, None if mask is None else mask[:, None, None, :], False, ctx)

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        q, k, v = self._queries_keys_values(x, ctx)
        where, after = positions_after(x, seen_before(state), mask)
        if self.rope is not None:
            q, k = rotated(q, where, self.rope), rotated(k, where, self.rope)
        (k, v), visible, is_causal, state = look_back((k, v), where, after, state, mask, self.window)
        return self._attend(q, k, v, visible, is_causal, ctx), state

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        return samples(self.mix, x, state, borders, ctx)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, is_causal: bool, ctx: Context | None
    ) -> Tensor:
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=visible,
            dropout_p=self.attn_drop if self.training else 0.0,
            is_causal=is_causal,
            scale=self.scale,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        return F.dropout(run(self.proj, y.transpose(1, 2).flatten(2), ctx), self.proj_drop, self.training)

    def _queries_keys_values(self, x: Tensor, ctx: Context | None) -> tuple[Tensor, ...]:
        """q (B, L, num_heads, head_dim), k and v (B, L or M, num_kv_heads, head_dim), normed."""
        if self.joint:
            qkv = run(self.qkv, x, ctx).unflatten(-1, (-1, self.head_dim))
            q, k, v = qkv.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], 2)
        else:
            q = run(self.q, x, ctx).unflatten(-1, (-1, self.head_dim))
            k, v = run(self.kv, self._looked_at(x, ctx), ctx).unflatten(-1, (-1, self.head_dim)).chunk(2, 2)
        return self._normed(self.q_norm, q, ctx), self._normed(self.k_norm, k, ctx), v

    def _looked_at(self, x: Tensor, ctx: Context | None) -> Tensor:
        """What keys and values are made from."""
        if not self.cross:
            return x
        if ctx is None or ctx.memory is None:
            raise ValueError("a cross attention looks at ctx.memory (B, M, C), and there is none")
        return ctx.memory

    def _normed(self, norm: nn.Module | None, x: Tensor, ctx: Context | None) -> Tensor:
        """Each head's query or key normed by itself: to the norm, heads are tokens; without `norm_heads` they are channels."""
        if norm is None:
            return x
        return run(norm, x.flatten(1, 2) if self.norm_heads else x.flatten(2), ctx).view(x.shape)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        if self.joint:
            return bool(self.qkv.absorb_input(scale, shift))  # type: ignore[operator]
        absorbed = self.q.absorb_input(scale, shift) and (self.cross or self.kv.absorb_input(scale, shift))  # type: ignore[operator]
        return bool(absorbed)
