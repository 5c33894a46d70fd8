"""Ways of cutting an image up, and what is put behind them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import blocks
import zoo


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(7, 4, 2), (3, 2, 1), (2, 2, 0)])
def test_a_map_behind_unfolded_patches_is_a_convolution(kernel_size: int, stride: int, padding: int) -> None:
    unfold, x = (
        blocks.get("unfold")(3, kernel_size=kernel_size, stride=stride, padding=padding),
        torch.randn(2, 3, 13, 18),
    )
    dense = blocks.get("dense")(unfold.out_dim, 5)
    weight = dense.weight.view(5, 3, kernel_size, kernel_size)
    torch.testing.assert_close(dense(unfold(x)), F.conv2d(x, weight, dense.bias, stride, padding))


def test_stretches_of_rows_are_those_of_all_pixels_in_a_line() -> None:
    stem, x = blocks.get("row_patches")(1, 6, size=4), torch.randn(2, 1, 5, 8)
    line = F.conv1d(x.flatten(2), stem.proj.weight, stem.proj.bias, 4)
    torch.testing.assert_close(stem(x).flatten(2), line)


def test_a_stretch_that_crosses_the_end_of_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="^rows of 10 pixels are no whole number of stretches of 4$"):
        blocks.get("row_patches")(1, 6, size=4)(torch.randn(1, 1, 4, 10))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 7, 3)])
def test_channels_are_padded_with_zeros_at_the_end(shape: tuple[int, ...]) -> None:
    x, channels = torch.randn(shape), 1 if len(shape) == 4 else 2
    y = blocks.get("pad_channels")(3, 5)(x)
    kept, added = y.split([3, 2], channels)
    assert torch.equal(kept, x) and not added.any()


def test_a_padded_stream_is_never_narrower() -> None:
    with pytest.raises(ValueError, match="^zeros make 5 channels no narrower: 3 are asked for$"):
        blocks.get("pad_channels")(5, 3)


def test_resized_parts_meet_the_size_they_were_built_for() -> None:
    layer = blocks.get("within")(4, parts=["identity"], view="resized")
    view = layer.view
    x = torch.randn(1, 4, 14, 14)
    assert view.enter(x)[0] is x
    y, memo = view.enter(torch.randn(1, 4, 16, 20))
    assert tuple(y.shape[2:]) == (14, 14)
    assert tuple(view.exit(y, memo).shape[2:]) == (16, 20)


def test_a_class_token_may_stand_last() -> None:
    view, x = blocks.get("tokens")(4, cls_token="last", keep="cls", input_size=(2, 3)), torch.randn(2, 4, 2, 3)
    y, memo = view.enter(x)
    assert torch.equal(y[:, -1], view.cls_token[:, 0].expand(2, -1)) and torch.equal(y[:, 0], x[:, :, 0, 0])
    assert torch.equal(view.exit(y, memo), y[:, -1:])
    assert torch.equal(view.grid(y, memo), x)


def test_sinusoid_positions_are_fixed_and_those_of_the_transformer() -> None:
    table = blocks.get("tokens")(6, positions="sinusoid", input_size=(3, 3)).pos_embed
    assert not table.requires_grad
    angle = 4 / 10_000 ** (1 / 3)
    torch.testing.assert_close(table[0, 4, 2:4], torch.tensor([math.sin(angle), math.cos(angle)]))


def test_squeezed_norms_fold_into_their_maps() -> None:
    from blocks.folding import fuse
    from tests.blocks.test_fuse_forms import difference, randomised

    block = randomised(
        blocks.get("squeeze_excite")(8, hidden_dim=3, bias=False, norm=blocks.registry.slots.Slot("batch_norm"))
    )
    assert difference(block, torch.randn(2, 8, 4, 4).double()) <= 1e-12
    assert not list(fuse(block).buffers())


def test_the_members_of_a_packed_head_read_channels_of_their_own() -> None:
    head, x = blocks.get("packed_head")(8, num_classes=5, members=4, merge="each"), torch.randn(3, 8, 2, 2)
    pooled = x.mean((2, 3))
    expected = torch.stack(
        [pooled[:, 2 * m : 2 * m + 2] @ head.classifier.weight[m].T + head.classifier.bias[m] for m in range(4)]
    )
    torch.testing.assert_close(head(x), expected.flatten(0, 1))
    head.merge = "mean"
    torch.testing.assert_close(head(x).exp(), expected.softmax(-1).mean(0))


def test_a_model_anneals() -> None:
    zoo.anneal(blocks.get("progressive_norm")(4), 0.5)
