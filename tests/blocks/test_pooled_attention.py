"""Next-ViT's attention against its formula, what it refuses, and the pooling of images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("length", "pieces"), [(12, 3), (15, 3), (3, 1), (1, 1)])
def test_keys_are_means_of_whole_pieces(length: int, pieces: int) -> None:
    mixer = blocks.get("pooled_attention")(16, num_heads=2, pool=4, norm=None).double()
    x = torch.randn(2, length, 16, dtype=torch.float64)
    means = torch.stack([piece.mean(1) for piece in x.split(4, 1)[:pieces]], 1)
    q, (k, v) = mixer.q(x).view(2, length, 2, 8), mixer.kv(means).view(2, pieces, 2, 2, 8).unbind(2)
    y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    close(mixer(x), mixer.proj(y.transpose(1, 2).flatten(2)))


def test_padding_is_refused_by_an_attention_that_pools() -> None:
    mixer, ctx = (
        blocks.get("pooled_attention")(16, num_heads=2),
        blocks.Context(mask=torch.ones(1, 8, dtype=torch.bool)),
    )
    with pytest.raises(ValueError, match="^block `pooled_attention` cannot keep padding"):
        mixer(torch.randn(1, 8, 16), ctx)


def test_the_mean_of_a_cell_at_the_border_is_of_what_is_inside() -> None:
    x = torch.arange(15.0).view(1, 1, 3, 5)
    assert blocks.get("avg_pool")()(x)[0, 0].tolist() == [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]
    assert blocks.get("avg_pool")(kernel_size=3)(x).shape[2:] == (2, 3)
