"""Linear attention: o_t = q_t S_t / (q_t z_t + eps), S = sum of k v^T and z = sum of k over the positions that t sees.

Paper: arXiv:2006.16236. Queries and keys come positive, from a feature map, and scaled if they are to be.
H is here the number of heads, K and V the widths of a key and a value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.dispatch import implementation, implements

CAUSAL = "causal_linear_attention"
CHUNK = 64

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

    q, k (B, H, L, K), v (B, H, L, V) -> o (B, H, L, V) and the state after the last step.
    """
    if initial_state is None:
        initial_state = k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1]), k.new_zeros(*k.shape[:2], k.shape[-1])
    y, weight, state = implementation(CAUSAL)(q, k, v, *initial_state)
    return (y if eps is None else y / (weight.unsqueeze(-1) + eps)), state


@implements(CAUSAL, "reference")
def reference(q: Tensor, k: Tensor, v: Tensor, S: Tensor, z: Tensor) -> tuple[Tensor, Tensor, State]:
    """(q S (B, H, L, V), q z (B, H, L), last state), step by step."""
    outputs, weights = [], []
    for q_t, k_t, v_t in zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True):
        S, z = S + k_t.unsqueeze(-1) * v_t.unsqueeze(-2), z + k_t
        outputs.append((q_t.unsqueeze(-2) @ S).squeeze(-2))
        weights.append((q_t * z).sum(-1))
    return torch.stack(outputs, 2), torch.stack(weights, 2), (S, z)


@implements(CAUSAL, "eager")
def eager(q: Tensor, k: Tensor, v: Tensor, S: Tensor, z: Tensor) -> tuple[Tensor, Tensor, State]:
    """The same in chunks: within a chunk a masked product of queries and keys, before it the running sums."""
    length = q.shape[2]
    size = min(CHUNK, length)
    q, k, v = (F.pad(x, (0, 0, 0, -length % size)).unflatten(2, (-1, size)) for x in (q, k, v))
    S_after = S.unsqueeze(2) + (k.transpose(-1, -2) @ v).cumsum(2)
    z_after = z.unsqueeze(2) + k.sum(-2).cumsum(2)
    S_before = torch.cat([S.unsqueeze(2), S_after[:, :, :-1]], 2)
    z_before = torch.cat([z.unsqueeze(2), z_after[:, :, :-1]], 2)
    scores = (q @ k.transpose(-1, -2)).tril()
    y = q @ S_before + scores @ v
    weight = (q @ z_before.unsqueeze(-1)).squeeze(-1) + scores.sum(-1)
    return y.flatten(2, 3)[:, :, :length], weight.flatten(2, 3)[:, :, :length], (S_after[:, :, -1], z_after[:, :, -1])
