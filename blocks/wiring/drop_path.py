"""Stochastic depth: in training, a branch is left out for some samples of the batch. Paper: arXiv:1603.09382."""

from __future__ import annotations

from torch import Tensor


def drop_path(y: Tensor, rate: float, training: bool) -> Tensor:
    """`y` times b / (1 - rate), one b of 0 or 1 for each sample, P(b = 0) = rate; `y` itself outside of training."""
    if not training or rate == 0:
        return y
    keep = y.new_empty(len(y), *[1] * (y.ndim - 1)).bernoulli_(1 - rate)
    return y * keep / (1 - rate)
