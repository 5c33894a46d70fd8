"""Heads in cascade: the formula position by position, windows filled up with zeros, tables, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks
from blocks.registry.errors import BlockError


def cascade(**params: object) -> torch.nn.Module:
    """A block without norms whose table of biases is not empty."""
    torch.manual_seed(0)
    module = blocks.get("cascaded_group_attention")(
        12, num_heads=2, key_dim=4, kernel_sizes=[3, 5], norm="none", out_norm="none", **params
    )
    torch.nn.init.normal_(module.relative_bias)
    return module.double().eval()


def by_the_formula(module: torch.nn.Module, x: Tensor) -> Tensor:
    """One window (1, C, S, S), written out head by head, with biases looked up pair by pair."""
    side, found, heads = x.shape[-1], torch.zeros(()), []
    places = [(y, x) for y in range(side) for x in range(side)]
    for h, share in enumerate(x.chunk(2, 1)):
        q, k, v = module.qkvs[h](share + found).split([4, 4, 6], 1)
        q, k, v = (part.flatten(2)[0].T for part in (module.dws[h](q), k, v))
        bias = torch.stack(
            [
                torch.stack([module.relative_bias[h, abs(a - c) * side + abs(b - d)] for c, d in places])
                for a, b in places
            ]
        )
        found = ((q @ k.T / math.sqrt(4) + bias).softmax(-1) @ v).T.reshape(1, 6, side, side)
        heads.append(found)
    return module.proj(F.relu(torch.cat(heads, 1)))


def image(*size: int) -> Tensor:
    return torch.randn(1, 12, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_each_head_is_fed_what_the_one_before_it_found() -> None:
    module, x = cascade(window=4), image(4, 4)
    torch.testing.assert_close(module(x), by_the_formula(module, x))


def test_zeros_that_fill_up_a_window_are_attended() -> None:
    module, x = cascade(window=4), image(6, 3)
    y, filled = module(x), F.pad(x, (0, 1, 0, 2))
    torch.testing.assert_close(y[:, :, 4:], by_the_formula(module, filled[:, :, 4:])[:, :, :2, :3])


@pytest.mark.parametrize(("size", "side"), [((14, 14), 7), ((7, 9), 7), ((4, 9), 4)])
def test_a_window_is_no_larger_than_the_map(size: tuple[int, int], side: int) -> None:
    module = blocks.get("cascaded_group_attention")(64, input_size=size)
    assert module.relative_bias.shape == (4, side**2)


def test_a_table_of_another_window_is_resampled_by_rows_and_columns() -> None:
    small = blocks.get("cascaded_group_attention")(64, window=4)
    rows = torch.arange(7.0).repeat_interleave(7).expand(4, 49)
    table = small.resize_table("relative_bias", rows, (4, 16))
    assert table.shape == (4, 16)
    assert (table.view(4, 4, 4).std(2) < 1e-5).all()
    assert small.resize_table("weight", rows, (4, 16)) is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_heads": 5, "kernel_sizes": [5] * 5}, "num_heads 5 does not divide dim 64; the nearest that does is 4"),
        ({"num_heads": 2}, "2 heads need as many kernel_sizes; there are 4"),
        ({"kernel_sizes": [5, 5, 4, 3]}, "a kernel of 4 has no centre; the nearest that has is 5"),
    ],
)
def test_heads_and_kernels_that_do_not_fit_are_refused(params: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        blocks.get("cascaded_group_attention")(64, **params)
    assert str(error.value) == message


def test_a_kernel_is_a_bounded_number() -> None:
    with pytest.raises(BlockError, match="a list of at least 1"):
        blocks.get("cascaded_group_attention")(64, kernel_sizes=[0, 5, 5, 5])
