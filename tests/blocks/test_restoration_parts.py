"""What nets for pictures are made of beside convolutions, against their formulas: kernels of a direction and a length, sums, borders."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from blocks.attention.window_correlation import DistanceBias
from blocks.conv.weight_norm_conv import WeightNormConv
from blocks.folding import fuse
from blocks.primitives.channels import Channels
from blocks.primitives.fixed_affine import FixedAffine
from blocks.primitives.grid_pool import GridPool
from blocks.primitives.mirrored import Mirrored
from blocks.wiring.dot import Dot
from blocks.wiring.scaled_sum import ScaledSum
from blocks.wiring.selective_sum import SelectiveSum


def test_a_kernel_of_a_direction_and_a_length_is_torchs() -> None:
    ours, x = WeightNormConv(3, 5).double(), torch.randn(2, 3, 6, 7, dtype=torch.float64)
    theirs = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3, padding=1).double())
    theirs.load_state_dict(
        {
            "parametrizations.weight.original0": ours.weight_g,
            "parametrizations.weight.original1": ours.weight_v,
            "bias": ours.bias,
        }
    )
    with torch.no_grad():
        ours.weight_g.mul_(3)
        theirs.parametrizations.weight.original0.mul_(3)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(fuse(ours)(x), theirs(x))


def test_each_channel_has_its_own_fixed_map() -> None:
    x = torch.randn(2, 3, 4, 4)
    y = FixedAffine(3, factor=2, shift=[1.0, 2.0, 3.0])(x)
    torch.testing.assert_close(y, 2 * x + torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
    with pytest.raises(ValueError, match="2 numbers are not one for each of 3 channels"):
        FixedAffine(3, factor=[1.0, 2.0])


def test_shares_of_a_sum_are_learned_as_they_are() -> None:
    merge, x = ScaledSum((4, 4), start=0.25), torch.randn(1, 4, 2, 2)
    with torch.no_grad():
        merge.weight[1] = -2
    torch.testing.assert_close(merge(x, x), -1.75 * x)


def test_a_dot_is_the_sum_of_products_of_channels() -> None:
    x, y = torch.randn(2, 1, 4, 3, 3)
    torch.testing.assert_close(Dot((4, 4))(x, y), torch.einsum("bchw,bchw->bhw", x, y)[:, None])


def test_a_selective_sum_shuts_a_part_out_where_its_gates_are_shut() -> None:
    merge, x = SelectiveSum((8, 8)).eval(), torch.randn(2, 8, 5, 5)
    assert merge.squeeze.bias is not None
    with torch.no_grad():
        open_ = merge(x, x)
        merge.squeeze.bias[0] = -1e4
        half = merge(x, x)
        merge.squeeze.bias[1] = -1e4
        assert open_.any()
        assert half.any()
        assert not merge(x, x).any()


def test_channels_that_are_not_there_are_refused() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert Channels(6, start=4)(x).flatten().tolist() == [4, 5]
    assert Channels(6, start=1, count=2)(x).flatten().tolist() == [1, 2]
    with pytest.raises(ValueError, match="3 channels from 4 on are not there among 6"):
        Channels(6, start=4, count=3)


def test_cells_of_a_grid_are_means() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert GridPool(size=2)(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize("side", [2, 3, 5, 8, 13])
def test_a_mirrored_image_goes_back_and_forth(side: int) -> None:
    x, view = torch.randn(1, 2, side, side), Mirrored(size=8)
    y, memo = view.enter(x)
    longer = x
    while longer.shape[3] < y.shape[3]:
        more = min(longer.shape[3] - 1, y.shape[3] - longer.shape[3])
        longer = F.pad(longer, (0, more, 0, more), "reflect")
    torch.testing.assert_close(y, longer)
    torch.testing.assert_close(view.exit(y, memo), x)


def test_the_bias_of_a_cell_is_the_mean_of_those_of_its_pixels() -> None:
    bias, side = DistanceBias(4, 3, base=2, side=3), 6
    with torch.no_grad():
        table = bias.pos3(bias.pos2(bias.pos1(bias.pos_proj(bias.distances.values.float()))))
    table = table.view(2 * side - 1, 2 * side - 1, 3)
    place = torch.arange(side)
    apart = place[:, None] - place + side - 1
    pairs = table[apart[:, None, :, None], apart[None, :, None, :]]  # (row, column, other row, other column, head)
    means = pairs.unflatten(3, (2, 3)).unflatten(2, (2, 3)).mean((3, 5)).flatten(2, 3).flatten(0, 1).permute(2, 0, 1)
    torch.testing.assert_close(bias(), means)
