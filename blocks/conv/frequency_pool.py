"""FcaNet's squeeze: each channel summed up by one of sixteen frequencies of the discrete cosine transform, of which the mean is the lowest.

Paper: arXiv:2012.11879. Upstream: cfzd/FcaNet (MIT). Differs from upstream: the basis is no part of the state.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides
from blocks.registry import block
from blocks.tables import Table

# (along the rows, along the columns) in halves of a period over a map of 7 x 7, the best alone first: the paper's "top16"
FREQUENCIES = ((0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0), (5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3), (3, 5), (2, 2))  # fmt: skip
CELLS = 7
"""Rows and columns of the map that the frequencies were found on; larger maps take multiples of them."""


@block(
    "frequency_pool",
    kind="pool",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2012.11879",
    covers=("fcanet", "multi_spectral_attention", "frequency_channel_attention"),
)
class FrequencyPool(nn.Module):
    """y_c = sum over p, q of B(p, u_c) B(q, v_c) x_c(p, q), B(p, f) = sqrt((1 if f = 0 else 2) / N) cos(pi f (p + 1/2) / N), N = `size`.

    (B, C, H, W) -> (B, C, 1, 1). The channels stand in as many equal groups as there are `frequencies`, the first so many of the
    paper's sixteen, one (u, v) for each group. Maps of another size are first averaged to size x size. Raises ValueError when the
    frequencies do not divide C, and for a size below 7, which has not so many frequencies.
    """

    def __init__(
        self,
        dim: int,
        *,
        size: Annotated[int, Meta(ge=CELLS)] = CELLS,
        frequencies: Annotated[int, Meta(ge=1, le=len(FREQUENCIES))] = len(FREQUENCIES),
    ):
        super().__init__()
        check_divides("frequencies", frequencies, "dim", dim)
        self.size = size
        self.basis = Table(basis, (dim, size, frequencies))

    def forward(self, x: Tensor) -> Tensor:
        grid = (self.size, self.size)
        cells = x if tuple(x.shape[2:]) == grid else F.adaptive_avg_pool2d(x, grid)
        return (cells * self.basis.like(x)).sum((2, 3), keepdim=True)


def basis(dim: int, size: int, frequencies: int) -> Tensor:
    """(C, size, size) products of cosines, in channels_last memory."""
    cosines = torch.stack([_cosine(frequency * (size // CELLS), size) for frequency in range(CELLS)])
    rows, columns = torch.tensor(FREQUENCIES[:frequencies]).unbind(1)
    waves = cosines[rows].unsqueeze(2) * cosines[columns].unsqueeze(1)  # (frequencies, size, size)
    return waves.permute(1, 2, 0).repeat_interleave(dim // frequencies, 2).permute(2, 0, 1).float()


def _cosine(frequency: int, size: int) -> Tensor:
    """B(., frequency), (size,) in float64."""
    positions = torch.arange(size, dtype=torch.float64) + 0.5
    return math.sqrt((2 if frequency else 1) / size) * torch.cos(math.pi * frequency * positions / size)
