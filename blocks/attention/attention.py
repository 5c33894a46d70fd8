"""Softmax attention with heads, grouped keys, rotary positions, a window, a causal and a cross form.

Papers: arXiv:1706.03762, arXiv:2305.13245 (grouped keys), arXiv:2104.09864 (rotary positions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.cache import look_back, seen_before
from blocks.attention.heads import check_divides, split_heads
from blocks.attention.rotary import Rope, check_rope, positions_after, rotated_parts, score_scale
from blocks.attention.scores import attended
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
Part = Annotated[Count | None, Meta(extra_json_schema={"added": "0.1"})]
Cap = Annotated[Annotated[float, Meta(gt=0)] | None, Meta(extra_json_schema={"added": "0.1"})]


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
    With `joint` false q has a map of its own, W_q, and [k | v] = W_kv x, as a `cross` attention always has; with `apart` k and v have
    maps of their own, too.
    `bias` and `linear` hold for the first maps, and for W_o unless `out_bias` and `out_linear` say otherwise. `ctx.mask` hides padding. In training
    `attn_drop` of the weights and `proj_drop` of the outputs are dropped. `rope` turns queries and keys by their
    positions (blocks.attention.rotary), of each head all channels or the first `rope_dim`. Keys count `key_scale` times. With a `window` a token
    of a causal sequence sees itself and window - 1 before it. Scores s become softcap tanh(s / softcap) where there is a `softcap`
    (Gemma 2). With `gated` the map of the queries gives [q | g] for each head, and what a head gives is multiplied by sigmoid(g) before W_o
    (Qwen3-Next, arXiv:2505.06708).
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
        rope_dim: Part = None,
        softcap: Cap = None,
        gated: Neutral = False,
        apart: Neutral = False,
        out_linear: Annotated[Linear | None, Meta(extra_json_schema={"added": "0.1"})] = None,
    ):
        super().__init__()
        self.attn_drop, self.proj_drop = attn_drop, proj_drop
        self.rope, self.window, self.softcap, self.gated = rope, window, softcap, gated
        if window is not None and not causal:
            raise ValueError("a window is of the tokens before: it needs a causal attention")
        if causal and cross:
            raise ValueError("a causal attention looks at its own past and a cross attention at the memory; choose one")
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.num_kv_heads = num_kv_heads or self.num_heads
        check_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        self.rope_dim = rope_dim or self.head_dim
        check_rope(rope, self.rope_dim)
        if self.rope_dim > self.head_dim:
            raise ValueError(
                f"rope_dim {self.rope_dim} is more than the {self.head_dim} channels of a head; the most is {self.head_dim}"
            )
        if rope is not None and cross:
            raise ValueError("a cross attention has no rotary positions: a memory has none")
        self.scale = self.head_dim**-0.5 * score_scale(rope) * key_scale
        self.causal, self.cross, self.joint = causal, cross, joint and not (cross or apart)
        width, kv_width = self.num_heads * self.head_dim, 2 * self.num_kv_heads * self.head_dim
        queries = 2 * width if gated else width
        if self.joint:
            self.qkv = linear(dim, queries + kv_width, bias=bias)
        else:
            self.q = linear(dim, queries, bias=bias)
        self.kv = linear(dim, kv_width, bias=bias) if not (self.joint or apart) else None
        self.k = linear(dim, kv_width // 2, bias=bias) if apart else None
        self.v = linear(dim, kv_width // 2, bias=bias) if apart else None
        self.norm_heads = norm_heads
        self.q_norm = qk_norm(self.head_dim if norm_heads else width) if qk_norm else None
        self.k_norm = qk_norm(self.head_dim if norm_heads else kv_width // 2) if qk_norm else None
        self.proj = (out_linear or linear)(width, dim, bias=bias if out_bias is None else out_bias)

    def macs(self, shape: tuple[int, ...], ctx: Context | None = None) -> dict[str, int]:
        """Scores and sums: 2 L M num_heads head_dim, M the positions looked at; with a cap they are products of matrices."""
        B, L, _ = shape
        keys = ctx.memory.shape[1] if self.cross and ctx is not None and ctx.memory is not None else L
        kind = "attention" if self.softcap is None else "matmul"
        return {kind: 2 * B * L * keys * self.num_heads * self.head_dim}

    def state_size(self, length: int = 0) -> int:
        positions = length if self.window is None else min(length, self.window - 1)
        return 2 * positions * self.num_kv_heads * self.head_dim + 1

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if self.causal:
            return stepwise(self.mix, self.mix_packed, self.path, x, ctx)
        refuse_state(ctx, "that needs an attention with `causal`")
        q, k, v, gate = self._queries_keys_values(x, ctx)
        if self.rope is not None:
            where, _ = positions_after(x, None, None)
            q, k = rotated_parts((q, k), where, self.rope, self.rope_dim)
        mask = None if self.cross else token_mask(x, ctx)
        return self._attend(q, k, v, gate, None if mask is None else mask[:, None, None, :], False, ctx)

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        q, k, v, gate = self._queries_keys_values(x, ctx)
        where, after = positions_after(x, seen_before(state), mask)
        if self.rope is not None:
            q, k = rotated_parts((q, k), where, self.rope, self.rope_dim)
        (k, v), visible, is_causal, state = look_back((k, v), where, after, state, mask, self.window)
        return self._attend(q, k, v, gate, visible, is_causal, ctx), state

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        return samples(self.mix, x, state, borders, ctx)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gate: Tensor | None,
        visible: Tensor | None,
        is_causal: bool,
        ctx: Context | None,
    ) -> Tensor:
        drop = self.attn_drop if self.training else 0.0
        shared = self.num_heads // self.num_kv_heads
        y = attended(q, k, v, visible, is_causal, self.scale, self.softcap, drop, shared)
        y = y if gate is None else y * gate.sigmoid()
        return F.dropout(run(self.proj, y.flatten(2), ctx), self.proj_drop, self.training)

    def _queries_keys_values(self, x: Tensor, ctx: Context | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """q (B, L, num_heads, head_dim), k and v (B, L or M, num_kv_heads, head_dim), normed; the gate (B, L, num_heads, head_dim) or None."""
        if self.joint:
            qkv = run(self.qkv, x, ctx).unflatten(-1, (-1, self.head_dim))
            q, k, v = qkv.split([qkv.shape[2] - 2 * self.num_kv_heads, self.num_kv_heads, self.num_kv_heads], 2)
        else:
            q = run(self.q, x, ctx).unflatten(-1, (-1, self.head_dim))
            k, v = (y.unflatten(-1, (-1, self.head_dim)) for y in self._keys_values(self._looked_at(x, ctx), ctx))
        q, gate = q.unflatten(2, (-1, 2)).unbind(3) if self.gated else (q, None)
        return self._normed(self.q_norm, q, ctx), self._normed(self.k_norm, k, ctx), v, gate

    def _keys_values(self, x: Tensor, ctx: Context | None) -> Sequence[Tensor]:
        if self.kv is not None:
            return run(self.kv, x, ctx).chunk(2, -1)
        return run(self.k, x, ctx), run(self.v, x, ctx)  # type: ignore[arg-type]  # there where `kv` is not

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
        if self.cross:
            return bool(self.q.absorb_input(scale, shift))  # type: ignore[operator]
        maps = [part for part in (self.q, self.kv, self.k, self.v) if part is not None]
        return all(part.absorb_input(scale, shift) for part in maps)  # type: ignore[operator]
