"""Maps of which few weights remain: drawn or pruned masks, neighbours on a grid of channels, and the bottleneck of pixels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("size", "sparsity", "remaining"), [(1, 0.9, 5), (4, 0.75, 12), (1, 0.999, 1), (2, 0.0, 48)])
def test_a_sparse_map_is_a_dense_one_with_zeros(size: int, sparsity: float, remaining: int) -> None:
    torch.manual_seed(0)
    block = blocks.get("sparse")(48, 32, sparsity=sparsity, block_size=size).double()
    x, W = torch.randn(2, 48, 3, 5, dtype=torch.float64), block.dense()
    torch.testing.assert_close(block(x), F.conv2d(x, W[..., None, None], block.bias))
    assert (W != 0).sum(1).tolist() == [remaining] * 32
    assert block.macs((2, 48, 3, 5)) == {"matmul": 2 * 15 * 32 * remaining}
    assert count(block) == 32 * remaining + 32


@torch.no_grad()
def test_pruning_keeps_the_largest_weights_that_a_block_shares() -> None:
    torch.manual_seed(0)
    block, W = blocks.get("sparse")(10, 6, sparsity=0.7, block_size=2).double(), torch.randn(6, 10, dtype=torch.float64)
    block.prune(W)
    for rows, kept in zip(W.split(2), block.dense().split(2), strict=True):
        largest = set(rows.square().sum(0).topk(3).indices.tolist())
        expected = torch.stack([rows[:, i] if i in largest else torch.zeros(2) for i in range(10)], 1)
        assert torch.equal(kept, expected)


@torch.no_grad()
def test_folding_reaches_the_weights_that_remain() -> None:
    torch.manual_seed(0)
    block, x = blocks.get("sparse")(12, 8, sparsity=0.5).double(), torch.randn(5, 12, dtype=torch.float64)
    before, after = torch.rand(2, 12, dtype=torch.float64), torch.rand(2, 8, dtype=torch.float64)
    expected = block(before[0] * x + before[1]) * after[0] + after[1]
    assert block.absorb_input(*before) and block.absorb_output(*after)
    torch.testing.assert_close(block(x), expected)


@torch.no_grad()
def test_an_output_reads_its_neighbours_round_the_border_of_the_grid() -> None:
    torch.manual_seed(0)
    block = blocks.get("topology")(12, 24, sides=[3, 4], reach=[2, 3]).double()
    x, expected = torch.randn(5, 12, dtype=torch.float64), torch.zeros(5, 24, dtype=torch.float64)
    for out in range(24):
        row, column = divmod(out % 12, 4)
        for step in range(6):
            down, across = divmod(step, 3)
            expected[:, out] += block.weight[out, step] * x[:, (row + down) % 3 * 4 + (column + across) % 4]
    torch.testing.assert_close(block(x), expected + block.bias)
    assert block.macs((5, 12)) == {"matmul": 5 * 24 * 6}


def test_without_values_a_quarter_of_the_channels_are_neighbours() -> None:
    assert blocks.get("topology")(64).weight.shape == (64, 16)


def test_a_grid_of_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sides \[3, 5\] hold 15 channels, and there are 16"):
        blocks.get("topology")(16, sides=[3, 5])


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 9), (7, 5)])
def test_a_spatial_bottleneck_projects_one_number_for_each_cell(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = blocks.get("spatial_bottleneck")(4, parts=["matrix"], stride=3).double()
    H, W = size
    x = torch.randn(2, 4, H, W, dtype=torch.float64)
    rows, columns = -(-H // 3), -(-W // 3)
    whole = F.pad(x, (0, 3 * columns - W, 0, 3 * rows - H))
    expected = torch.zeros_like(whole)
    for i in range(rows):
        for j in range(columns):
            cell = (slice(None), slice(None), slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3))
            number = (whole[cell] * block.down.weight[:, 0]).sum((2, 3)) + block.down.bias
            number = number @ block.get_submodule("0").weight.T
            expected[cell] = number[..., None, None] * block.up.weight[:, 0] + block.up.bias.view(-1, 1, 1)
    torch.testing.assert_close(block(x), expected[:, :, :H, :W])
