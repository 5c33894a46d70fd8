"""Softmax attention of heads over what they may look at, with scores that can be kept below a cap. H is the number of heads.

The cap: arXiv:2408.00118 (Gemma 2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor | None,
    is_causal: bool,
    scale: float,
    softcap: float | None = None,
    dropout: float = 0.0,
    shared: int = 1,
) -> Tensor:
    """softmax(s) v with s = scale q k^T, or softcap tanh(scale q k^T / softcap).

    q (B, L, H, D), k (B, M, G, D), v (B, M, G, E) -> (B, L, H, E); `shared` = H / G neighbouring heads share keys and values.
    `visible`, which broadcasts to (B, H, L, M), is True where a query sees a key, or numbers to be added to s; `is_causal` stands
    for the plain triangle of L = M.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if softcap is None:
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=visible,
            dropout_p=dropout,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=shared > 1,
        )
        return y.transpose(1, 2)
    if shared > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    scores = softcap * torch.tanh(q @ k.mT * (scale / softcap))
    if is_causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf) if visible.dtype == torch.bool else scores + visible
    return (F.dropout(scores.softmax(-1), dropout) @ v).transpose(1, 2)
