"""Nets of voxels: scenes do not see each other, and voxels have no order."""

from __future__ import annotations

import torch
from torch import Tensor

import zoo


def scenes(count: int = 48, side: int = 24) -> tuple[Tensor, ...]:
    """Features, places, colours and scenes of voxels, each in a cell of its own."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(side**3, generator=generator)[:count]
    corner = torch.stack([chosen // side**2, chosen // side % side, chosen % side], 1)
    places = corner + torch.rand(count, 3, generator=generator, dtype=torch.float64)
    colours = 2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1
    return torch.cat([colours, places / side], 1), places, colours, torch.arange(count) % 2


def test_scenes_do_not_see_each_other_and_voxels_have_no_order() -> None:
    torch.manual_seed(0)
    net, given = zoo.create("swin3d_nano").double(), scenes()
    with torch.no_grad():
        for parameter in net.parameters():  # away from first values, with which tables say next to nothing
            parameter.add_(0.1 * torch.randn_like(parameter))
        together = net(*given)
        for scene in (0, 1):
            own = given[3] == scene
            torch.testing.assert_close(net(*(x[own] for x in given)), together[own])
        order = torch.randperm(len(given[3]), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(net(*(x[order] for x in given)), together[order])
