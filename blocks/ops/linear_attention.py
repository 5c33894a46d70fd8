"""Linear attention: o_t = q_t S_t / (q_t z_t + eps), S = sum of k v^T and z = sum of k over the positions that t sees.

Paper: arXiv:2006.16236. Queries and keys come positive, from a feature map, and scaled if they are to be.
H is here the number of heads, K and V the widths of a key and a value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.ops.linear_recurrence import linear_recurrence

State = tuple[Tensor, Tensor]
"""(S (B, H, K, V), z (B, H, K)) after some steps."""


def linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    """Every position sees all. q, k (B, H, L, K), v (B, H, L, V) -> (B, H, L, V)."""
    total = k.sum(-2).unsqueeze(-1)
    return (q @ (k.transpose(-1, -2) @ v)) / (q @ total + eps)


def causal_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eps: float | None = 1e-6,
    initial_state: State | None = None,
) -> tuple[Tensor, State]:
    """Position t sees those up to t, and what `initial_state` sums up; eps None leaves out the normaliser.

    q, k (B, H, L, K), v (B, H, L, V) -> o (B, H, L, V) and the state after the last step. The sums z are those of a
    value that is 1 everywhere.
    """
    by_step = [x.transpose(1, 2) for x in (q, k, torch.cat([v, torch.ones_like(v[..., :1])], -1))]
    state = None if initial_state is None else torch.cat([initial_state[0], initial_state[1].unsqueeze(-1)], -1)
    o, last = linear_recurrence(*by_step, initial_state=state, return_final_state=True)
    y, weight = o.transpose(1, 2).split([v.shape[-1], 1], -1)
    return (y if eps is None else y / (weight + eps)), (last[..., :-1], last[..., -1])
