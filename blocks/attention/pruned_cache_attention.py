"""Attention with a cache of a fixed number of tokens, from which each head drops those that nobody looked at. Paper: arXiv:2012.09852 (SpAtten).

The rule is that of mit-han-lab/spatten-llm (MIT). N is here the number of tokens that a head keeps: start + important + recent.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from blocks.attention.attention import Attention
from blocks.attention.rotary import Rope, rotated_parts
from blocks.context import Context
from blocks.recurrent import Recurrent, State
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block(
    "pruned_cache_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2012.09852",
    covers=("spatten", "cascade_token_pruning"),
)
class PrunedCacheAttention(Attention):
    """y_t = W_o concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h over the tokens that head h still keeps, and t itself.

    A head keeps the first `start` tokens, the last `recent` and `important` of those between: the ones with the largest sum, over the
    queries since they came, of scores ("scores", q k^T / sqrt(head_dim), as in the authors' code) or of attention ("weights", as in the
    paper). What was dropped is never looked at again. (B, L, C) -> (B, L, C), token by token, so that any split of a sequence gives the
    same. The state holds keys and values (B, N, H, head_dim), importance and position of each (B, N, H), -1 where none is, and the number of
    tokens (B,): its size does not grow. Raises ValueError as `attention` does.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        bias: bool = False,
        rope: Rope | None = None,
        start: Count = 4,
        important: Count = 32,
        recent: Annotated[int, Meta(ge=2)] = 28,
        importance: Literal["scores", "weights"] = "scores",
    ):
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim, causal=True, joint=False, bias=bias, rope=rope)
        self.sizes, self.importance = (start, important, recent), importance

    def macs(self, shape: tuple[int, ...], ctx: Context | None = None) -> dict[str, int]:
        """Scores and sums of each token with the N that may be kept."""
        B, L, _ = shape
        return {"matmul": 2 * B * L * sum(self.sizes) * self.num_heads * self.head_dim}

    def state_size(self, length: int = 0) -> int:
        return sum(self.sizes) * self.num_heads * (2 * self.head_dim + 2) + 1

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        q, k, v, _ = self._queries_keys_values(x, ctx)
        B, L, H, D = q.shape
        N = sum(self.sizes)
        if state is None:
            wide = torch.promote_types(x.dtype, torch.float32)
            empty = torch.full((B, N, H), -1, dtype=torch.int64, device=x.device)
            state = (
                *(x.new_zeros(B, N, H, D) for _ in range(2)),
                x.new_zeros(B, N, H, dtype=wide),
                empty,
                empty[:, 0, 0] + 1,
            )
        where = state[-1].unsqueeze(1) + torch.arange(L, device=x.device)
        if self.rope is not None:
            q, k = rotated_parts((q, k), where, self.rope, self.rope_dim)
        outputs = []
        for t in range(L):
            y, fresh = self._step(q[:, t], k[:, t], v[:, t], where[:, t], state)
            outputs.append(y)
            real = None if mask is None else mask[:, t]
            state = (
                fresh if real is None else tuple(_where(real, new, old) for new, old in zip(fresh, state, strict=True))
            )
        y = torch.stack(outputs, 1) if outputs else q
        return self.proj(y.flatten(2)), state

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        return Recurrent.mix_packed(self, x, state, borders, ctx)  # type: ignore[arg-type]  # which asks for `mix` alone

    def _step(self, q: Tensor, k: Tensor, v: Tensor, where: Tensor, state: State) -> tuple[Tensor, State]:
        """One token for each sample: q, k, v (B, H, D) at the position `where` (B,)."""
        start, _, recent = self.sizes
        keys, values, sums, places, count = state
        held = places >= 0
        n = held.sum(1, keepdim=True)
        rank = held.cumsum(1) - 1  # places are in order, those that are empty last
        middle = held & (rank >= start) & (rank <= n - recent)
        least = sums.masked_fill(~middle, torch.inf).topk(1, 1, largest=False).indices
        slot = torch.arange(places.shape[1], device=places.device)[None, :, None]
        full = n == places.shape[1]
        source = torch.where(full & (slot >= least), slot + 1, slot).clamp(max=places.shape[1] - 1)
        last = slot == torch.where(full, places.shape[1] - 1, n)
        sums, places = (part.gather(1, source) for part in (sums, places))
        keys, values = (part.gather(1, source.unsqueeze(-1).expand_as(part)) for part in (keys, values))
        keys, values = (
            torch.where(last[..., None], new[:, None].to(old.dtype), old) for new, old in ((k, keys), (v, values))
        )
        sums = sums.masked_fill(last, 0)
        places = torch.where(last, where[:, None, None], places)
        scores = torch.einsum("bhd,bnhd->bnh", q, keys.to(q.dtype)) * self.scale
        held = places >= 0
        weights = scores.masked_fill(~held, -torch.inf).softmax(1)
        seen = scores if self.importance == "scores" else weights
        y = torch.einsum("bnh,bnhd->bhd", weights, values.to(q.dtype))
        return y, (keys, values, (sums + seen.detach().to(sums.dtype)).masked_fill(~held, 0), places, count + 1)


def kept_tokens(importance: Tensor, start: int, important: int, recent: int, coming: int = 1) -> Tensor:
    """(H, N) the tokens of a cache that each head keeps while `coming` more are to be added, in their order: importance (H, T).

    All where T + coming is no more than start + important + recent; else the first `start`, `important` of those between, the last recent -
    coming.
    """
    H, T = importance.shape
    order = torch.arange(T, device=importance.device)
    if T + coming <= start + important + recent:
        return order.expand(H, T)
    end = T - recent + coming
    best = importance[:, start:end].topk(important, -1).indices.sort(-1).values + start
    return torch.cat([order[:start].expand(H, -1), best, order[end:].expand(H, -1)], 1)


def _where(real: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(real.view(-1, *[1] * (new.ndim - 1)), new, old.to(new.dtype))
