"""Norms whose scales depend on the time of diffusion, as merges of a stream and its time. Paper: arXiv:2406.09416."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import as_stream, as_tokens
from blocks.registry import block

Eps = Annotated[float, Meta(gt=0)]
Rate = Annotated[float, Meta(gt=0)]
TIME_LAST = ("causal", "noncausal", "any_resolution")


class TimedVector(nn.Module):
    """p(t) = s p_0 + (1 - s) p_1 with s = sigmoid((1 + w) t + b): a vector between two, channel by channel.

    (B, 1, 1) times -> (B, 1, C). Both begin as `first`, w and b as 0.
    """

    no_decay = ("weight", "bias")

    def __init__(self, dim: int, first: float):
        super().__init__()
        self.first = first
        self.param0 = nn.Parameter(torch.empty(dim))
        self.param1 = nn.Parameter(torch.empty(dim))
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in (self.param0, self.param1):
            nn.init.constant_(parameter, self.first)
        for parameter in (self.weight, self.bias):
            nn.init.zeros_(parameter)

    def forward(self, time: Tensor) -> Tensor:
        share = ((1 + self.weight) * time + self.bias).sigmoid()
        return share * self.param0 + (1 - share) * self.param1


@block("timed_rms_norm", kind="merge", abilities=TIME_LAST, paper="arXiv:2406.09416", covers=("td_rmsn",))
class TimedRmsNorm(nn.Module):
    """y = scale(rate t) * x / (sqrt(mean_C x^2) + eps), scale(t) = s p_0 + (1 - s) p_1, s = sigmoid((1 + w) t + b).

    (B, C, H, W) or (B, L, C), and t (B, 1, 1) -> the shape of x. DiMR's t is the log of the signal-to-noise ratio.
    """

    def __init__(self, dims: tuple[int, ...], *, eps: Eps = 1e-8, rate: Rate = 0.25):
        super().__init__()
        self.out_dim, self.eps, self.rate = dims[0], eps, rate
        self.scale = TimedVector(dims[0], 1.0)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        axis = 1 if x.ndim == 4 else -1
        root = x.square().mean(axis, keepdim=True).sqrt()
        return x / (root + self.eps) * _meeting(self.scale(_times(time, self.rate)), x)


@block("timed_layer_norm", kind="merge", abilities=TIME_LAST, paper="arXiv:2406.09416", covers=("td_ln",))
class TimedLayerNorm(nn.Module):
    """y = weight(rate t) * (x - mean_C x) / sqrt(var_C x + eps) + bias(rate t), both p(t) = s p_0 + (1 - s) p_1, s = sigmoid((1 + w) t + b).

    (B, C, H, W) or (B, L, C), and t (B, 1, 1) -> the shape of x. DiMR's t is the log of the signal-to-noise ratio.
    """

    def __init__(self, dims: tuple[int, ...], *, eps: Eps = 1e-5, rate: Rate = 0.25):
        super().__init__()
        self.out_dim, self.eps, self.rate = dims[0], eps, rate
        self.weight = TimedVector(dims[0], 1.0)
        self.bias = TimedVector(dims[0], 0.0)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        channels_last = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        y = F.layer_norm(channels_last, channels_last.shape[-1:], eps=self.eps)
        y = y.permute(0, 3, 1, 2) if x.ndim == 4 else y
        t = _times(time, self.rate)
        return y * _meeting(self.weight(t), x) + _meeting(self.bias(t), x)


def _times(time: Tensor, rate: float) -> Tensor:
    """(B, L, 1): a time for each sample, L = 1, or for each position; the mean of several channels."""
    return rate * as_tokens(time).mean(-1, keepdim=True)


def _meeting(vector: Tensor, x: Tensor) -> Tensor:
    """(B, 1, C), or (B, L, C), shaped to meet x."""
    if x.ndim != 4:
        return vector
    return vector.transpose(1, 2).unsqueeze(-1) if vector.shape[1] == 1 else as_stream(vector, x)
