"""Windows: shifted ones see what meets inside the image and nothing round its border."""

from __future__ import annotations

import pytest
import torch

import blocks
from blocks.registry.errors import BlockError

WindowAttention = blocks.get("window_attention")


def seen(layer: torch.nn.Module, size: tuple[int, int], at: tuple[int, int]) -> set[tuple[int, int]]:
    """The positions that the output at `at` depends on."""
    x = torch.randn(1, 8, *size, requires_grad=True)
    layer(x)[0, :, at[0], at[1]].sum().backward()
    return {tuple(place) for place in x.grad[0].abs().sum(0).nonzero().tolist()}


def square(rows: range, columns: range) -> set[tuple[int, int]]:
    return {(row, column) for row in rows for column in columns}


@pytest.mark.parametrize(
    ("shift", "at", "expected"),
    [
        (0, (0, 0), square(range(4), range(4))),
        (2, (3, 3), square(range(2, 6), range(2, 6))),
        (2, (0, 0), square(range(2), range(2))),
        (2, (7, 7), square(range(6, 8), range(6, 8))),
        (2, (0, 5), square(range(2), range(2, 6))),
        (1, (0, 0), square(range(1), range(1))),
        (1, (1, 1), square(range(1, 5), range(1, 5))),
    ],
)
def test_a_position_sees_its_window(shift: int, at: tuple[int, int], expected: set[tuple[int, int]]) -> None:
    layer = WindowAttention(8, window=4, shift=shift, head_dim=4, input_size=(8, 8))
    assert seen(layer, (8, 8), at) == expected


def test_an_image_no_larger_than_a_window_is_one_window() -> None:
    layer = WindowAttention(8, window=7, shift=3, head_dim=4, input_size=(4, 4))
    assert (layer.window, layer.shift) == (4, 0)
    assert seen(layer, (4, 4), (0, 0)) == square(range(4), range(4))


def test_the_bias_belongs_to_the_distance() -> None:
    layer = WindowAttention(8, window=3, head_dim=8, input_size=(6, 6))
    rows = layer.distance.view(3, 3, 3, 3)
    assert rows[0, 0, 1, 1] == rows[1, 1, 2, 2] == rows[0, 1, 1, 2]
    assert len(layer.distance.unique()) == 25


def test_a_shift_beyond_the_window_is_refused() -> None:
    with pytest.raises(BlockError, match="a shift of 4 moves windows of 4 past each other; the largest is 3"):
        blocks.construct.construct(
            {"block": "window_attention", "window": 4, "shift": 4, "head_dim": 4}, blocks.registry.slots.Place(), 8
        )
