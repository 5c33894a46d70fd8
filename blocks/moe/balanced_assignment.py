"""Balanced assignment: every expert gets the same number of tokens, and the sum of scores is as large as can be.

T tokens, E experts, room = ceil(T / E) tokens for each. The auction is that of Bertsekas (1992) for similar objects; BASE
layers (arXiv:2103.16716) use one too. Sinkhorn's normalisation as in S-BASE (arXiv:2202.01169).
"""

from __future__ import annotations

import torch
from torch import Tensor

PRECISION = 0.02
"""What a token may lose against the best assignment, as a share of the range of scores: eps of the auction."""
LARGEST = 60.0
"""The largest score of which the exponential is taken."""
TINY = 1e-8
"""Keeps the sums that Sinkhorn divides by from 0."""
ROUNDS = 2000
"""After so many rounds of bidding the tokens that are left take what room there is."""


@torch.no_grad()
def balanced_assignment(scores: Tensor, precision: float = PRECISION) -> Tensor:
    """(T, E) -> (T,) an expert for each token, none with more than ceil(T / E).

    The sum of scores is within T * precision * (max - min) of the largest. NaN counts as the lowest score.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    finite = scores.isfinite()
    low = scores[finite].min() if finite.any() else scores.new_zeros(())
    scores = torch.where(finite, scores, low)
    T, E = scores.shape
    if E == 1:
        return torch.zeros(T, dtype=torch.int64, device=scores.device)
    eps = precision * float(scores.max() - scores.min()) if T else 0.0
    return _auction(scores, -(-T // E), eps or 1.0)


def _auction(scores: Tensor, room: int, eps: float) -> Tensor:
    """Tokens without an expert bid for the one that is worth most after its price; each expert keeps its `room` best bids.

    A bid is the score less what the second best would be worth, and eps; the price is the lowest bid that a full
    expert holds.
    """
    T, E = scores.shape
    owner = torch.full((T,), -1, dtype=torch.int64, device=scores.device)
    bids, prices = scores.new_zeros(T), scores.new_zeros(E)
    for _ in range(ROUNDS):
        free = (owner < 0).nonzero().squeeze(-1)
        if not len(free):
            return owner
        values, best = (scores[free] - prices).topk(2, -1)
        owner[free] = best[:, 0]
        bids[free] = scores[free, best[:, 0]] - values[:, 1] + eps
        for expert in best[:, 0].unique().tolist():
            tokens = (owner == expert).nonzero().squeeze(-1)
            if len(tokens) < room:
                continue
            order = bids[tokens].argsort(descending=True, stable=True)
            owner[tokens[order[room:]]] = -1
            prices[expert] = bids[tokens[order[room - 1]]]
    return _filled(owner, scores, room)


def _filled(owner: Tensor, scores: Tensor, room: int) -> Tensor:
    """The tokens without an expert, in order, each to the best that has room."""
    for token in (owner < 0).nonzero().squeeze(-1).tolist():
        full = torch.bincount(owner[owner >= 0], minlength=scores.shape[1]) >= room
        owner[token] = scores[token].masked_fill(full, -torch.inf).argmax()
    return owner


@torch.no_grad()
def sinkhorn(scores: Tensor, tolerance: float = 1e-4, rounds: int = 200) -> Tensor:
    """(T, E) -> diag(u) exp(scores) diag(v): rows sum to 1 / T, columns nearly to 1 / E; ends when v moves by less than `tolerance`.

    Rows that are not finite take part as if all their scores were equal; scores beyond 60 are moved down together.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = torch.where(scores.isfinite().all(-1, keepdim=True), scores, 0.0)
    T, E = scores.shape
    cost = (scores - (scores.amax() - LARGEST).clamp_min(0)).exp() if T else scores
    u, v = scores.new_ones(T), scores.new_ones(E)
    for _ in range(rounds):
        u = 1 / (T * (cost @ v + TINY))
        before, v = v, 1 / (E * (u @ cost + TINY))
        if (v - before).abs().mean() <= tolerance:
            break
    return u.unsqueeze(-1) * cost * v
