"""ConViT's attention against its formula, and how it begins: as a convolution."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from blocks.attention.gated_positional_attention import GatedPositionalAttention, displacements


def image(*size: int, dim: int = 32) -> Tensor:
    return torch.randn(2, dim, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_positions_are_attended_as_the_gate_says() -> None:
    mixer, x = GatedPositionalAttention(32, num_heads=4).double(), image(3, 5)
    torch.nn.init.normal_(mixer.gate)
    tokens = x.flatten(2).transpose(1, 2)
    q, k = mixer.qk(tokens).view(2, 15, 2, 4, 8).permute(2, 0, 3, 1, 4)
    content = (q @ k.transpose(2, 3) / math.sqrt(8)).softmax(-1)
    position = mixer.pos_proj(displacements(3, 5).double()).permute(2, 0, 1).softmax(-1)
    gate = mixer.gate.sigmoid().view(4, 1, 1)
    values = mixer.v(tokens).view(2, 15, 4, 8).transpose(1, 2)
    y = (((1 - gate) * content + gate * position) @ values).transpose(1, 2).flatten(2)
    close(mixer(x), mixer.proj(y).transpose(1, 2).unflatten(2, (3, 5)))


@pytest.mark.parametrize(
    ("heads", "places"),
    [(4, [(-1, -1), (0, -1), (-1, 0), (0, 0)]), (9, [(dy, dx) for dx in (-1, 0, 1) for dy in (-1, 0, 1)])],
)
def test_heads_begin_as_the_taps_of_a_kernel(heads: int, places: list[tuple[int, int]]) -> None:
    """A kernel of 3 x 3 has a head at each of its positions; that of 2 x 2 lies between positions, and its heads look at four each."""
    mixer = GatedPositionalAttention(36, num_heads=heads, locality=9.0)
    seen = mixer._position((5, 5), None)[:, 12].view(heads, 5, 5)  # from the centre
    for head, (dy, dx) in enumerate(places):
        if heads == 9:
            assert seen[head].argmax() == (2 + dy) * 5 + 2 + dx
        else:
            looked_at = seen[head, 2 + dy : 4 + dy, 2 + dx : 4 + dx]
            assert looked_at.sum() > 0.99


def test_a_head_count_without_a_square_leaves_the_rest_as_drawn() -> None:
    mixer = GatedPositionalAttention(36, num_heads=6)
    assert mixer.pos_proj.weight[:4, 2].tolist() == [-1.0] * 4
    assert (mixer.pos_proj.weight[4:, 2] != -1).all()
