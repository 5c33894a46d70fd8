"""Moments over time: what a sequence is on the whole. Papers: arXiv:1803.10963 (attentive statistics pooling), arXiv:2005.07143 (ECAPA-TDNN)."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.context import Context
from blocks.heads.pool import pooled
from blocks.ops.masks import token_mask
from blocks.registry import block
from blocks.wiring.merges import one_width


@block("sequence_mean", kind="pool", layout="BLC", abilities=("noncausal", "any_resolution", "1d"))
class SequenceMean(nn.Module):
    """y = the mean of each channel over all steps but padding.

    (B, L, C) -> (B, 1, C), a sequence of one step. Raises ValueError for a sequence without steps, and for packed ones.
    """

    def __init__(self, dim: int):
        super().__init__()

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return pooled(x, "avg", ctx).unsqueeze(1)


@block(
    "attentive_statistics",
    kind="merge",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:1803.10963",
    covers=("asp", "ecapa_tdnn", "statistics_pooling"),
)
class AttentiveStatistics(nn.Module):
    """y = [m | sqrt(max(sum_t w_t x_t^2 - m^2, eps))], m = sum_t w_t x_t, w the softmax over the steps t of the scores s.  (eqs. 5 and 6)

    x (B, L, C) and s (B, L, C), one score for each channel of each step -> (B, 2 C). Steps of padding weigh nothing. Raises ValueError for
    several widths, for no steps, and for packed sequences.
    """

    def __init__(self, dims: tuple[int, ...], *, eps: Annotated[float, Meta(gt=0)] = 1e-9):
        super().__init__()
        self.out_dim, self.eps = 2 * one_width(dims), eps

    def forward(self, x: Tensor, scores: Tensor, ctx: Context | None = None) -> Tensor:
        if type(x) is Tensor and x.shape[0] and not x.shape[1]:
            raise ValueError(f"moments are those of some steps, and an input of shape {tuple(x.shape)} has none")
        mask = token_mask(x, ctx)
        if mask is not None:
            scores = scores.masked_fill(~mask.bool().unsqueeze(-1), -torch.inf)
        weights = scores.softmax(1)
        mean = (weights * x).sum(1)
        spread = (weights * x.square()).sum(1) - mean.square()
        return torch.cat([mean, spread.clamp_min(self.eps).sqrt()], -1)
