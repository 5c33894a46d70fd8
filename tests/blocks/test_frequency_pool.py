"""FcaNet's squeeze against the cosine transform, and in squeeze and excite."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

import blocks
from blocks.construct import construct
from blocks.conv.frequency_pool import FREQUENCIES
from blocks.registry.slots import Place


def image(*size: int, dim: int = 32) -> Tensor:
    return torch.randn(2, dim, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_each_group_of_channels_is_summed_up_by_its_frequency() -> None:
    pool, x = blocks.get("frequency_pool")(32, size=14), image(14, 14)
    for group, (u, v) in enumerate(FREQUENCIES):
        waves = [
            torch.tensor(
                [math.sqrt((2 if f else 1) / 14) * math.cos(math.pi * 2 * f * (p + 0.5) / 14) for p in range(14)]
            )
            for f in (u, v)
        ]
        expected = torch.einsum("bchw,h,w->bc", x, waves[0].double(), waves[1].double())
        torch.testing.assert_close(pool(x)[:, 2 * group : 2 * group + 2, 0, 0], expected[:, 2 * group : 2 * group + 2], atol=1e-5, rtol=1e-5)  # fmt: skip


def test_the_lowest_frequency_alone_is_the_mean_times_the_side() -> None:
    pool, x = blocks.get("frequency_pool")(32, frequencies=1), image(7, 7)
    torch.testing.assert_close(pool(x), 7 * x.mean((2, 3), keepdim=True), atol=1e-6, rtol=1e-6)


def test_a_map_of_another_size_is_averaged_to_the_cells_of_the_frequencies() -> None:
    pool, x = blocks.get("frequency_pool")(32), image(21, 14)
    close(pool(x), pool(F.avg_pool2d(x, (3, 2))))


def test_squeeze_and_excite_takes_another_squeeze() -> None:
    gate = construct({"block": "squeeze_excite", "bias": False, "pool": "frequency_pool"}, Place(), 32)
    x = image(7, 7).float()
    summary = blocks.get("frequency_pool")(32)(x)
    torch.testing.assert_close(gate(x), x * torch.sigmoid(gate.up(F.relu(gate.down(summary)))))
    assert gate.down.bias is gate.up.bias is None
