"""The short and the long convolution as graphs: sums of shifted steps, and Fourier transforms as products of matrices."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.dispatch import GRAPH, implements
from blocks.ops.graph.sizes import Size, length_of
from blocks.ops.recorded import fixed
from blocks.ops.selective_scan.steps import common_dtype, fast_dtype


@implements("causal_conv1d", GRAPH)
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    act: Literal["silu"] | None,
    borders: Tensor | None,
) -> Tensor:
    """y (B, D, L), tap by tap with channels side by side. Raises ValueError for packed sequences, whose borders are data."""
    if borders is not None:
        raise ValueError("a graph holds no packed sequences (`cu_seqlens`): where they begin is data; pad them")
    taps, dtype = fixed(weight)[1], common_dtype(x, weight, bias)
    rows = x.to(dtype).transpose(1, 2)
    if state is None:
        joined = F.pad(rows, (0, 0, taps - 1, 0))
    else:
        joined = torch.cat([state.to(x).to(dtype).transpose(1, 2), rows], 1)
    y = joined[:, taps - 1 :] * weight[:, -1].to(dtype)
    for lag in range(1, taps):
        y = y + joined[:, taps - 1 - lag : -lag] * weight[:, taps - 1 - lag].to(dtype)
    y = y if bias is None else y + bias.to(dtype)
    return (F.silu(y) if act else y).to(x.dtype).transpose(1, 2)


@implements("long_conv", GRAPH)
def long_conv(x: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> Tensor:
    """y (B, D, L) of x (B, D, L) and kernels (D, L) or (B, D, L): transforms of 2 L numbers, of which half are zeros.

    A transform is a product with cosines and sines of multiples of pi / L, taken modulo 2 L in whole numbers.
    """
    dtype, length = fast_dtype(x, kernel, kernel_back), length_of(x, 2)
    cosines, sines = _waves(length, dtype, x.device)
    real, imaginary = _transformed(x.to(dtype), cosines, sines)
    kernel_real, kernel_imaginary = _transformed(kernel.to(dtype), cosines, sines)
    if kernel_back is not None:  # reversed in time: the conjugate
        back_real, back_imaginary = _transformed(kernel_back.to(dtype), cosines, sines)
        kernel_real, kernel_imaginary = kernel_real + back_real, kernel_imaginary - back_imaginary
    y_real = real * kernel_real - imaginary * kernel_imaginary
    y_imaginary = real * kernel_imaginary + imaginary * kernel_real
    weights = _weights(length, dtype, x.device)
    y = (y_real * weights) @ cosines.transpose(0, 1) - (y_imaginary * weights) @ sines.transpose(0, 1)
    return y.to(x.dtype)


def _transformed(x: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    """The real and the imaginary part (…, L + 1) of the spectrum of x (…, taps), followed by zeros up to 2 L."""
    taps = length_of(x, x.ndim - 1)
    return x @ cosines[:taps], -(x @ sines[:taps])


def _waves(length: Size, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of pi t f / L, (L, L + 1), t the step and f the frequency."""
    steps, frequencies = torch.arange(length, device=device), torch.arange(length + 1, device=device)
    turns = (steps.unsqueeze(1) * frequencies) % (2 * length)
    angle = turns.to(dtype) * (math.pi / length)
    return angle.cos(), angle.sin()


def _weights(length: Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(L + 1,): how often each frequency counts in the inverse transform: those between the first and the last twice."""
    frequencies = torch.arange(length + 1, device=device)
    inside = (frequencies > 0) & (frequencies < length)
    return (1 + inside.to(dtype)) / (2 * length)
