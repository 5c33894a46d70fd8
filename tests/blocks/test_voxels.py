"""Voxels of a space that is empty for the most part, against loops over those that are there."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from blocks.points.voxels import CoarserVoxels, DistanceMean, PlacesInWindows, SpaceWindows, SparseConv


def cloud(count: int = 24, side: int = 6) -> tuple[Tensor, Tensor]:
    """Places of voxels, each in a cell of its own, and the groups that they are of."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(side**3, generator=generator)[:count]
    corner = torch.stack([chosen // side**2, chosen // side % side, chosen % side], 1) - side // 2
    inside = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return corner + inside, (torch.arange(count) % 2).long()


@pytest.mark.parametrize("shifted", [False, True])
def test_voxels_share_a_window_where_their_cubes_are_the_same(shifted: bool) -> None:
    places, groups = cloud()
    windows = SpaceWindows((3, 1), size=3, stride=2, shifted=shifted)(places, groups)
    signals = PlacesInWindows(3, size=3, stride=2, shifted=shifted)(places)

    def cube(i: int) -> tuple[int, ...]:
        return (int(groups[i]), *((math.floor(p / 2) + shifted) // 3 for p in places[i].tolist()))

    for i, j in itertools.product(range(len(places)), repeat=2):
        assert bool(windows[i] == windows[j]) == (cube(i) == cube(j))
        if cube(i) == cube(j):  # in one window differences of places are those of space
            torch.testing.assert_close(signals[i] - signals[j], (places[i] - places[j]) / 2)


def test_of_a_cell_the_voxel_nearest_to_the_mean_stays() -> None:
    places, groups = cloud()
    groups[5] = -1
    found = CoarserVoxels((3, 1), stride=3)(places, groups)
    members: dict[tuple[int, ...], list[int]] = {}
    for i, place in enumerate(places.tolist()):
        members.setdefault((int(groups[i]), *(math.floor(p / 3) for p in place)), []).append(i)
    expected = torch.full_like(groups, -1)
    for cell, rows in members.items():
        mean = places[rows].mean(0)
        expected[min(rows, key=lambda i: math.dist(places[i], mean))] = cell[0]
    assert torch.equal(found, expected)


def test_a_sparse_convolution_sees_the_voxels_that_are_there() -> None:
    torch.manual_seed(0)
    places, groups = cloud()
    module, x = SparseConv((4, 3, 1), 5).double(), torch.randn(24, 4, dtype=torch.float64)
    kernel = module.weight.view(5, 3, 3, 3, 4)
    corner = places.floor().long()
    expected = torch.zeros(24, 5, dtype=torch.float64)
    for i, j in itertools.product(range(24), repeat=2):
        a, b, c = (corner[j] - corner[i] + 1).tolist()
        if groups[i] == groups[j] and all(0 <= offset <= 2 for offset in (a, b, c)):
            expected[i] += kernel[:, a, b, c].detach() @ x[j]
    with torch.no_grad():
        torch.testing.assert_close(module(x, places, groups), expected)
    with pytest.raises(ValueError, match="no middle"):
        SparseConv((4, 3, 1), 5, size=2)


def test_means_are_of_the_nearest_by_their_distance() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    distances = torch.tensor([[0.1, 0.2, 0.4], [0.5, 7.0, 7.0]], dtype=torch.float64).unsqueeze(-1)
    y = DistanceMean((4, 1))(x, distances)
    torch.testing.assert_close(y[0], (10 * x[0, 0] + 5 * x[0, 1] + 2.5 * x[0, 2]) / 17.5, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(y[1], x[1, 0])
