"""Forgetting attention: softmax attention whose scores fade by a gate made from every token passed since. Paper: arXiv:2503.02130.

Names of the state are those of fla-org/flash-linear-attention (MIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.cache import look_back, seen_before
from blocks.attention.heads import check_divides, split_heads
from blocks.attention.rotary import positions_after
from blocks.attention.scores import attended
from blocks.chain import run
from blocks.context import Context
from blocks.recurrent import Recurrent, State, samples, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, Norm, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "forgetting_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2503.02130",
    covers=("fox", "forgetting_transformer"),
)
class ForgettingAttention(Recurrent):
    """y_i = W_o sum_j softmax_j(q_i k_j^T / sqrt(d) + c_i - c_j) v_j over j <= i, c_i = sum_{l <= i} log sigmoid(W_f x_l + b).

    (B, L, C) -> (B, L, C). c is one number for each head; `num_kv_heads` keys and values are each shared by neighbouring heads.
    There are no positions: what is forgotten tells the order. `qk_norm` norms each query and key. With `gate` the heads' outputs are
    multiplied by sigmoid(W_g x). The state holds keys and values (B, M, num_kv_heads, head_dim), c of all of them
    (B, M, num_heads) and the number of tokens so far (B,); after padding also which of the M are tokens (B, M). Raises ValueError
    when heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        num_kv_heads: Count | None = None,
        qk_norm: Norm | None = None,
        gate: bool = False,
        bias: bool = False,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.num_kv_heads = num_kv_heads or self.num_heads
        check_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = linear(dim, width, bias=bias)
        self.k_proj = linear(dim, kv_width, bias=bias)
        self.v_proj = linear(dim, kv_width, bias=bias)
        self.f_proj = nn.Linear(dim, self.num_heads)
        self.g_proj = linear(dim, width, bias=bias) if gate else None
        self.q_norm = qk_norm(self.head_dim) if qk_norm else None
        self.k_norm = qk_norm(self.head_dim) if qk_norm else None
        self.o_proj = linear(width, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L^2 num_heads head_dim."""
        B, L, _ = shape
        return {"attention": 2 * B * L * L * self.num_heads * self.head_dim}

    def state_size(self, length: int = 0) -> int:
        return length * (2 * self.num_kv_heads * self.head_dim + self.num_heads) + 1

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        q, k, v = (run(p, x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self._normed(self.q_norm, q, ctx), self._normed(self.k_norm, k, ctx)
        where, after = positions_after(x, seen_before(state), mask)
        c = forgotten(self.f_proj(x), None if state is None else state[2], mask)
        (k, v, passed), visible, _, state = look_back((k, v, c), where, after, state, mask, None)
        fades, shared = fading(c, passed, visible).to(q.dtype), self.num_heads // self.num_kv_heads
        y = attended(q, k, v, fades, False, self.head_dim**-0.5, shared=shared)
        if self.g_proj is not None:
            y = y * run(self.g_proj, x).unflatten(-1, (-1, self.head_dim)).sigmoid()
        return run(self.o_proj, y.flatten(2)), state

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        return samples(self.mix, x, state, borders, ctx)

    def _normed(self, norm: nn.Module | None, x: Tensor, ctx: Context | None) -> Tensor:
        return x if norm is None else run(norm, x.flatten(1, 2), ctx).view(x.shape)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.o_proj.absorb_output(scale, shift))  # type: ignore[operator]


def forgotten(gate: Tensor, before: Tensor | None, mask: Tensor | None) -> Tensor:
    """c (B, L, H): the sum of log sigmoid(gate) up to each token, from where `before` (B, M, H) ends; padding forgets nothing."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    c = zero_padding(F.logsigmoid(gate.to(wide)), mask).cumsum(1)
    return c if before is None or not before.shape[1] else c + before[:, -1:].to(wide)


def fading(c: Tensor, passed: Tensor, visible: Tensor | None) -> Tensor:
    """(B, H, L, M): c_i - c_j of the queries' c (B, L, H) and the keys' (B, M, H), -inf where a query does not see a key.

    Without `visible` a query sees the keys up to its own, which are the last."""
    faded = c.transpose(1, 2).unsqueeze(-1) - passed.transpose(1, 2).unsqueeze(-2)
    if visible is None:
        L, M = faded.shape[-2:]
        visible = torch.ones(L, M, dtype=torch.bool, device=c.device).tril(M - L)
    return faded.masked_fill(~visible, -torch.inf)
