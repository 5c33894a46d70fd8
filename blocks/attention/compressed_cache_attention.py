"""Attention whose cache keeps old keys and values as short vectors and the current window as it is. Paper: arXiv:2409.10593 (CSKV).

W is here the window, H_kv the heads of keys and values, D their width, R_k and R_v what is kept of them for each head.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from blocks.attention.cache import LookBack, look_back, seen_before
from blocks.attention.heads import check_divides, split_heads
from blocks.attention.rotary import Rope, check_rope, positions_after, rotated, score_scale
from blocks.attention.scores import attended
from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import mean_over
from blocks.recurrent import Recurrent, State, samples
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]

Pair = tuple[Tensor, Tensor]
"""Of the keys and of the values."""


@block(
    "compressed_cache_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2409.10593",
    covers=("cskv", "channel_shrinking"),
)
class CompressedCacheAttention(Recurrent):
    """y_t = W_o softmax(q_t [K' | K]^T / sqrt(D)) [V' | V]: K, V of t's own window, K' = B_k c, V' = B_v d of the full ones before it.

    [k | c] = A_k x and [v | d] = A_v x; windows of `window` tokens count from the start of a sequence; keys are turned by `rope` behind
    B_k. (B, L, C) -> (B, L, C). With `prefill` "exact" the first call of a sequence looks at k and v of all of its tokens, as the authors'
    prompts do, so that what follows depends on how long it was; "compressed" gives the same in any split. In training `ctx.losses` gets
    reconstruction = `reconstruction_weight` (mean (k - B_k c)^2 + mean (v - B_v d)^2). The state holds c and d of all tokens (B, M, H_kv
    R_k or R_v), k and v of the last W - 1, where each stands, and the number of tokens. Raises ValueError when heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        num_kv_heads: Count | None = None,
        k_rank: Count = 16,
        v_rank: Count = 16,
        window: Count = 32,
        prefill: Literal["compressed", "exact"] = "compressed",
        rope: Rope | None = None,
        reconstruction_weight: Annotated[float, Meta(ge=0)] = 0.01,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.num_kv_heads = num_kv_heads or self.num_heads
        check_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        check_rope(rope, self.head_dim)
        self.ranks, self.window, self.prefill, self.rope = (k_rank, v_rank), window, prefill, rope
        self.reconstruction_weight = reconstruction_weight
        self.scale = self.head_dim**-0.5 * score_scale(rope)
        width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.kept = [self.num_kv_heads * rank for rank in self.ranks]
        self.q = linear(dim, width, bias=False)
        self.k_a = linear(dim, kv_width + self.kept[0], bias=False)
        self.k_b = linear(self.kept[0], kv_width, bias=False)
        self.v_a = linear(dim, kv_width + self.kept[1], bias=False)
        self.v_b = linear(self.kept[1], kv_width, bias=False)
        self.proj = linear(width, dim, bias=False)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums over what was made again and what is exact."""
        B, L, _ = shape
        keys = L if self.prefill == "exact" else 2 * L
        return {"attention": 2 * B * L * keys * self.num_heads * self.head_dim}

    def state_size(self, length: int = 0) -> int:
        near = min(length, self.window - 1)
        return length * (sum(self.kept) + 1) + near * (2 * self.num_kv_heads * self.head_dim + 1) + 2

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        kv_width = self.num_kv_heads * self.head_dim
        q = self._heads(run(self.q, x, ctx))
        k, c = run(self.k_a, x, ctx).split([kv_width, self.kept[0]], -1)
        v, d = run(self.v_a, x, ctx).split([kv_width, self.kept[1]], -1)
        far, near = (None, None) if state is None else (state[: len(state) // 2], state[len(state) // 2 :])
        where, after = positions_after(x, seen_before(far), mask)
        held = look_back((c, d, where), where, after, far, mask, None)
        exact = look_back((k, v, where), where, after, near, mask, self.window)
        self._tell(ctx, (k, v), (c, d), mask)
        if self.prefill == "exact" and state is None:
            keys, values, visible, is_causal = self._turned(k, where), self._heads(v), held.visible, held.is_causal
        else:
            keys, values, visible = self._both(held, exact, where, ctx)
            is_causal = False
        shared = self.num_heads // self.num_kv_heads
        y = attended(self._turned(q.flatten(2), where), keys, values, visible, is_causal, self.scale, shared=shared)
        return run(self.proj, y.flatten(2), ctx), (*held.state, *exact.state)

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        return samples(self.mix, x, state, borders, ctx)

    def _both(
        self, held: LookBack, exact: LookBack, where: Tensor, ctx: Context | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values that were made again before those that are exact, and which of both each query sees (B, 1, L, M)."""
        c, d, far = held.parts
        k, v, near = exact.parts
        keys = [self._turned(run(self.k_b, c, ctx), far), self._turned(k, near)]
        values = [self._heads(run(self.v_b, d, ctx)), self._heads(v)]
        ours = where.unsqueeze(2) // self.window
        visible = [
            _seen(held, where, far) & (far.unsqueeze(1) // self.window < ours),
            _seen(exact, where, near) & (near.unsqueeze(1) // self.window == ours),
        ]
        return torch.cat(keys, 1), torch.cat(values, 1), torch.cat(visible, 2).unsqueeze(1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))

    def _turned(self, x: Tensor, where: Tensor) -> Tensor:
        x = self._heads(x)
        return x if self.rope is None else rotated(x, where, self.rope)

    def _tell(self, ctx: Context | None, exact: Pair, compressed: Pair, mask: Tensor | None) -> None:
        if ctx is not None and self.training and self.reconstruction_weight:
            made_again = [run(linear, x, ctx) for linear, x in zip((self.k_b, self.v_b), compressed, strict=True)]
            missed = sum((x - y).square().mean(-1) for x, y in zip(exact, made_again, strict=True))
            loss = mean_over(missed.flatten(), None if mask is None else mask.bool().flatten())  # type: ignore[union-attr]
            ctx.losses[self.path] = {"reconstruction": self.reconstruction_weight * loss}


def _seen(look: LookBack, where: Tensor, keys: Tensor) -> Tensor:
    """(B, L, M): the keys that are tokens and do not come later, `keys` (B, M) being where they stand."""
    return keys.unsqueeze(1) <= where.unsqueeze(2) if look.visible is None else look.visible[:, 0]
