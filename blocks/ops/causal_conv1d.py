"""The short causal depthwise convolution that stands before most recurrences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, state: Tensor | None = None) -> Tensor:
    """y_t = bias + sum_i weight_i x_{t-k+1+i} per channel, with `state`, or zeros, before the first input.

    x (B, D, L), weight (D, 1, k) or (D, k), state (B, D, k-1) -> (B, D, L).
    """
    channels, kernel_size = weight.shape[0], weight.shape[-1]
    weight = weight.reshape(channels, 1, kernel_size)
    if state is not None:
        return F.conv1d(torch.cat([state.to(x), x], -1), weight, bias, groups=channels)
    return F.conv1d(x, weight, bias, padding=kernel_size - 1, groups=channels)[..., : x.shape[-1]]


def conv_state(x: Tensor, kernel_size: int, state: Tensor | None = None) -> Tensor:
    """(B, D, k-1): the last inputs, which continue the convolution; zeros or `state` fill up a short `x`."""
    before = x.new_zeros(*x.shape[:2], kernel_size - 1) if state is None else state.to(x)
    joined = torch.cat([before, x], -1)
    return joined[..., joined.shape[-1] - (kernel_size - 1) :].clone()
