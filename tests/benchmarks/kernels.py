"""Large depthwise kernels on a CPU: layouts, packed weights, a border of zeros, and the way through the Fourier transform."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.harness import Comparison, compare

SHAPES = [(160, 14, 7), (160, 14, 13), (80, 28, 13), (96, 56, 13), (256, 28, 31), (128, 56, 31)]
"""(channels, rows and columns, kernel)."""


def run(rounds: int = 9) -> dict[str, Comparison]:
    """Per shape: NCHW is the baseline."""
    return {f"depthwise {k} x {k}, {C} channels of {H} x {H}": compare(_ways(C, H, k), rounds) for C, H, k in SHAPES}


def _ways(C: int, H: int, k: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    x, w = torch.randn(1, C, H, H, generator=draw), torch.randn(C, 1, k, k, generator=draw)
    last = x.contiguous(memory_format=torch.channels_last)
    ways = {
        "NCHW": lambda: F.conv2d(x, w, padding=k // 2, groups=C),
        "channels_last": lambda: F.conv2d(last, w, padding=k // 2, groups=C),
        "Fourier": lambda: fourier(x, w),
        "packed": _packed(last, w, k // 2),
        "packed, zeros around": _packed(last, F.pad(w, (1, 1, 1, 1)), k // 2 + 1),
    }
    return {name: _quietly(way) for name, way in ways.items()}


def _packed(x: Tensor, w: Tensor, padding: int) -> Any:
    shape = [padding] * 2, [1, 1], [1, 1], len(w)
    packed = torch.ops.mkldnn._reorder_convolution_weight(w, *shape, list(x.shape))
    return lambda: torch.ops.mkldnn._convolution_pointwise(x, packed, None, *shape, "none", [], "")


def fourier(x: Tensor, w: Tensor) -> Tensor:
    """The same convolution as a product of spectra, each map filled up with zeros."""
    H, W, k = x.shape[2], x.shape[3], w.shape[-1]
    size = H + k - 1, W + k - 1
    spectrum = torch.fft.rfft2(x, s=size) * torch.fft.rfft2(w[:, 0].flip(-1, -2), s=size)
    return torch.fft.irfft2(spectrum, s=size)[..., k // 2 : k // 2 + H, k // 2 : k // 2 + W]


def _quietly(way: Any) -> Any:
    def work() -> Tensor:
        with torch.inference_mode():
            y: Tensor = way()
        return y

    return work
