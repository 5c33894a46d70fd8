"""Attention over a few keys that a search from coarse to fine finds for each query. Paper: arXiv:2406.09827 (HiP).

T is here the number of keys that a query sees, w the number of pixels that they are cut into, P how many pixels are kept.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.attention import Attention
from blocks.attention.cache import look_back, seen_before
from blocks.attention.rotary import Rope, positions_after, rotated_parts
from blocks.context import Context
from blocks.ops.recorded import lengths_are_free
from blocks.recurrent import State
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]

LONGEST = 2**20
"""Keys for which a graph of any length holds: it has the rounds that these take, of which the last do nothing for fewer."""


@block(
    "hip_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2406.09827",
    covers=("hierarchically_pruned_attention", "hip"),
)
class HipAttention(Attention):
    """y = W_o concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h over the keys that `hip_mask` keeps for each query and head.

    (B, L, C) -> (B, L, C). Of T keys about `mask_k` are kept; `coarse`, `least` and `scale_up` say how they are looked for. What is kept
    follows from the query and the keys before it alone, so that any split of a sequence gives the same. The state is that of a causal
    `attention`. Raises ValueError as `attention` does.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        num_kv_heads: Count | None = None,
        bias: bool = False,
        rope: Rope | None = None,
        mask_k: Count = 512,
        coarse: Count = 32,
        least: Count = 16,
        scale_up: Annotated[int, Meta(ge=2)] = 2,
    ):
        super().__init__(
            dim,
            num_heads=num_heads,
            head_dim=head_dim,
            num_kv_heads=num_kv_heads,
            causal=True,
            joint=False,
            bias=bias,
            rope=rope,
        )
        self.search = {"mask_k": mask_k, "coarse": coarse, "least": least, "scale_up": scale_up}

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        q, k, v, _ = self._queries_keys_values(x, ctx)
        where, after = positions_after(x, seen_before(state), mask)
        if self.rope is not None:
            q, k = rotated_parts((q, k), where, self.rope, self.rope_dim)
        look = look_back((k, v), where, after, state, mask, None)
        k, v = look.parts
        if (
            len(look.state) > len(look.parts) + 1
        ):  # some columns are padding: tokens first, so that a column is a position
            order = look.state[-1].logical_not().to(torch.uint8).argsort(dim=1, stable=True)[..., None, None]
            k, v = (part.gather(1, order.expand_as(part)) for part in (k, v))
        seen = (where + 1).clamp(max=k.shape[1])
        shared = self.num_heads // self.num_kv_heads
        with torch.no_grad():
            kept = hip_mask(q.transpose(1, 2), k.transpose(1, 2).repeat_interleave(shared, 1), seen, **self.search)
        return self._attend(q, k, v, None, kept, False, ctx), look.state


def hip_mask(q: Tensor, k: Tensor, seen: Tensor, *, mask_k: int, coarse: int, least: int, scale_up: int = 2) -> Tensor:
    """(B, H, L, M), True where a query keeps a key: q (B, H, L, D), k (B, H, M, D), of which a query sees the first `seen` (B, L) = T.

    It begins with round(coarse / scale_up) pixels over its T keys, all kept. In each round pixels become `scale_up` times as many, and those
    kept fall apart; of more than P = max(least, int(min(mask_k / T, 1) w)) those P stay whose first key has the largest q k^T. It ends
    when a pixel is a key. Where a pixel lies, as a share of T, is a float32, as in the authors' code, which decides what is rounded down.
    """
    T = seen[:, None, :, None].expand(-1, q.shape[1], -1, -1)
    width = max(1, round(coarse / scale_up))
    pixels = T.clamp(max=width)
    slots = torch.arange(width, device=q.device)
    alive = slots < pixels
    place = slots / pixels.double()
    most = max(mask_k, least, width)
    while width < (LONGEST if lengths_are_free() else k.shape[2]):
        width *= scale_up
        finer = torch.minimum(pixels * scale_up, T)
        begin = (place * pixels).long()
        first, last = ((edge / pixels.double() * finer).long() for edge in (begin, begin + 1))
        parts = first.unsqueeze(-1) + torch.arange(scale_up + 1, device=q.device)
        here = (alive.unsqueeze(-1) & (parts < last.unsqueeze(-1))).flatten(-2)
        shares = (parts.flatten(-2) / finer.double()).float()
        room = torch.maximum((mask_k / T.double()).clamp(max=1).mul(finer).long(), T.new_tensor(least)).minimum(T)
        stays = here & (_ranks(_first_scores(q, k, shares, T), here) < room)
        order = stays.logical_not().to(torch.uint8).argsort(dim=-1, stable=True)[..., :most]
        moves = finer != pixels  # rows that have come to single keys stay as they are
        place = torch.where(moves, shares.double().gather(-1, order), _filled(place, order.shape[-1]))
        alive = torch.where(moves, stays.gather(-1, order), _filled(alive, order.shape[-1]))
        pixels = finer
    found = torch.zeros(*q.shape[:3], k.shape[2] + 1, dtype=torch.bool, device=q.device)
    column = torch.where(alive, (place * pixels).long(), k.shape[2])
    return found.scatter(-1, column, torch.ones_like(alive))[..., :-1]


def _first_scores(q: Tensor, k: Tensor, shares: Tensor, T: Tensor) -> Tensor:
    """q k^T with the key at the beginning of each pixel (B, H, L, N)."""
    first = (shares.double() * T).long().clamp(max=k.shape[2] - 1)
    keys = k.gather(2, first.flatten(2).unsqueeze(-1).expand(-1, -1, -1, k.shape[-1]))
    return (q.unsqueeze(3) * keys.view(*first.shape, k.shape[-1])).sum(-1)


def _ranks(scores: Tensor, here: Tensor) -> Tensor:
    """How many of those that are `here` score higher."""
    order = scores.masked_fill(~here, -math.inf).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)


def _filled(x: Tensor, size: int) -> Tensor:
    """x (..., N) with `size` columns, new ones empty."""
    x = x[..., :size]
    return nn.functional.pad(x, (0, size - x.shape[-1]))
