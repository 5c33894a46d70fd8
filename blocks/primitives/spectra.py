"""Spectra of sound: frames of bands, mel bands, frames held back and averaged. Paper: arXiv:2212.09019 (Fast FullSubNet)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block
from blocks.tables import Table
from blocks.wiring.merges import one_width

Count = Annotated[int, Meta(ge=1, le=65536)]


@block("frames", kind="whole", layout="BCHW", abilities=("2d",))
class Frames(nn.Module):
    """A spectrogram as a sequence: y_t = all bands of all channels at frame t.

    (B, C, F, T) -> (B, T, C F).
    """

    def __init__(self, dim: int, *, input_size: tuple[int, ...] = (257, 64)):
        super().__init__()
        self.out_dim = dim * input_size[0]

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2).transpose(1, 2)


@block("spectrogram", kind="whole", layout="BLC", abilities=("1d",))
class Spectrogram(nn.Module):
    """The inverse of `frames`, without the first `drop` frames: those that a net of some look-ahead lags behind.

    (B, T, channels F) -> (B, channels, F, T - drop). Raises ValueError for a width that `channels` does not divide.
    """

    def __init__(self, dim: int, *, channels: Count = 1, drop: Annotated[int, Meta(ge=0, le=65536)] = 0):
        super().__init__()
        if dim % channels:
            raise ValueError(f"{dim} bands are not those of {channels} channels")
        self.out_dim, self.drop = channels, drop

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.drop :].transpose(1, 2).unflatten(1, (self.out_dim, -1))


@block("look_ahead", kind="downsample", layout="BLC", abilities=("any_resolution", "1d"))
class LookAhead(nn.Module):
    """y = x and `steps` positions of zeros behind it, so that what is causal sees as many positions that follow.

    (B, L, C) -> (B, L + steps, C).
    """

    def __init__(self, *, steps: Count = 1):
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, self.steps))


@block("mel_bands", kind="downsample", layout="BLC", abilities=("causal", "noncausal", "any_resolution", "1d"))
class MelBands(nn.Module):
    """y_m = sum_f triangle_m(f) x_f: `bands` triangles that overlap by half, evenly spaced in mel(f) = 2595 log10(1 + f / 700) up to `top` Hz.

    (B, L, C) magnitudes at C frequencies from 0 to `top` -> (B, L, bands).
    """

    def __init__(self, dim: int, *, bands: Count = 64, top: Annotated[float, Meta(gt=0)] = 8000.0):
        super().__init__()
        self.out_dim = bands
        self.triangles = Table(_triangles, (dim, bands, top))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Every band weighs every frequency."""
        return {"matmul": math.prod(shape) * self.out_dim}

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.triangles.like(x)


def _triangles(frequencies: int, bands: int, top: float) -> Tensor:
    """(C, bands) in float64."""
    places = torch.linspace(0, 2595 * math.log10(1 + top / 700), bands + 2, dtype=torch.float64)
    corners = 700 * (10 ** (places / 2595) - 1)
    slopes = corners - torch.linspace(0, top, frequencies, dtype=torch.float64)[:, None]
    widths = corners.diff()
    return torch.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]).clamp_min(0)


@block("mean_norm", kind="norm", abilities=("noncausal", "any_resolution"))
class MeanNorm(nn.Module):
    """y = x / (mean x + eps), over all channels and positions of a sample: magnitudes of any loudness alike.

    (B, C, H, W) or (B, L, C) -> the same shape.
    """

    def __init__(self, dim: int, *, eps: Annotated[float, Meta(gt=0)] = 1e-5):
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        return x / (x.mean(tuple(range(1, x.ndim)), keepdim=True) + self.eps)


@block("sub_bands", kind="merge", abilities=("causal", "noncausal"))
class SubBands(nn.Module):
    """For each band m: x_(m-n), …, x_(m+n), those beyond the ends reflected, and what the other streams have at m.

    n x (B, L, M) -> (B, L, M k), band by band k = 2 neighbours + n numbers. Raises ValueError for streams of several widths, and for fewer bands than neighbours.
    """

    def __init__(self, dims: tuple[int, ...], *, neighbours: Annotated[int, Meta(ge=0, le=4096)] = 5):
        super().__init__()
        bands = one_width(dims)
        if neighbours >= bands:
            raise ValueError(
                f"{neighbours} neighbours are reflected at the ends of {bands} bands; the most are {bands - 1}"
            )
        self.neighbours, self.out_dim = neighbours, bands * (2 * neighbours + len(dims))

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        axis, n = 1 if x.ndim == 4 else -1, self.neighbours
        bands = torch.arange(-n, x.shape[axis] + n, device=x.device).abs()
        last = x.shape[axis] - 1
        places = (last - (last - bands).abs()).unfold(0, 2 * n + 1, 1)
        around = x.index_select(axis, places.flatten()).unflatten(axis, places.shape)
        beside = [other.unsqueeze(2 if x.ndim == 4 else -1) for other in others]
        return torch.cat([around, *beside], 2 if x.ndim == 4 else -1).flatten(
            1 if x.ndim == 4 else -2, 2 if x.ndim == 4 else -1
        )


@block("frame_means", kind="downsample", layout="BLC", abilities=("any_resolution", "1d"))
class FrameMeans(nn.Module):
    """y_0 = x_0, y_t = the mean of the t-th `size` positions behind it; the last may be of fewer.

    (B, L, C) -> (B, 1 + ceil((L - 1) / size), C).
    """

    def __init__(self, *, size: Count = 2):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        y = (
            F.avg_pool1d(x[:, 1:].transpose(1, 2), self.size, ceil_mode=True)
            if x.shape[1] > 1
            else x[:, 1:].transpose(1, 2)
        )
        return torch.cat([x[:, :1], y.transpose(1, 2)], 1)


@block("hold", kind="merge", abilities=("any_resolution",))
class Hold(nn.Module):
    """Every position `times` times, cut to the length of the stream that comes second.

    x (B, M, C), and a stream (B, L, D) -> (B, L, C); images stay as they are. Raises ValueError where M is too short.
    """

    def __init__(self, dims: tuple[int, ...], *, times: Count = 2):
        super().__init__()
        self.out_dim, self.times = dims[0], times

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        if x.ndim == 4:
            return x
        if x.shape[1] * self.times < stream.shape[1]:
            raise ValueError(f"{x.shape[1]} positions held {self.times} times do not reach {stream.shape[1]}")
        return x.repeat_interleave(self.times, 1)[:, : stream.shape[1]]
