"""What nets that tell places are trained to: joints of persons with tags that tell persons apart, lines by their middles and ends.

Papers: arXiv:1611.05424 (tags), arXiv:1908.10357 (maps of two sizes), arXiv:2106.00186 (lines).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.answering.answers import joint_maps, main_output

JOINT_SIGMA, MIDDLE_SIGMA = 1.0, 0.7
"""Of the hills around a joint and around the middle of a line, in pixels of the map."""
TAG_WEIGHT = 0.02
"""Of the tags beside the maps of joints, whose error is a mean over pixels of which nearly all are empty."""
THERE = 30.0
"""How much more than an empty pixel one counts at which there is a joint, or the middle of a line."""
END_WEIGHT = 0.3
"""Of the ends of lines, in pixels of the map, beside their middles."""
APART = 3.0
"""How far the mean tags of two persons are to be from each other."""


def hills(points: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """(N, 2) x, y in pixels of a map -> (H, W): exp(-d^2 / (2 sigma^2)) of the nearest point; 0 where there is none."""
    H, W = size
    if not len(points):
        return points.new_zeros(H, W)
    x, y = torch.arange(W).to(points) + 0.5, torch.arange(H).to(points) + 0.5
    apart = (x - points[:, :1])[:, None] ** 2 + (y - points[:, 1:])[:, :, None] ** 2
    return (-apart / (2 * sigma**2)).exp().amax(0)


def on_joints(outputs: Any, joints: list[Tensor], side: tuple[int, int]) -> Tensor:
    """The weighted mean of squared errors of both maps, and of the tags at the joints: near the mean of their person, which is far from that of
    others. `joints`: of each picture (N, J, 2) x, y in its pixels, `side` its rows and columns."""
    coarse, fine = joint_maps(outputs)
    J = fine.shape[1]
    losses = []
    for maps in (coarse[:, :J], fine):
        H, W = maps.shape[2:]
        scale = maps.new_tensor((W / side[1], H / side[0]))
        wanted = torch.stack(
            [torch.stack([hills(own[:, j] * scale, (H, W), JOINT_SIGMA) for j in range(J)]) for own in joints]
        )
        losses.append(((1 + THERE * wanted) * (maps - wanted) ** 2).mean())
    tags = torch.stack([_tag_loss(own_tags, own, side) for own_tags, own in zip(coarse[:, J:], joints, strict=True)])
    return torch.stack(losses).sum() + TAG_WEIGHT * tags.mean()


def _tag_loss(tags: Tensor, joints: Tensor, side: tuple[int, int]) -> Tensor:
    """Of one picture: (J, h, w) tags, (N, J, 2) joints."""
    J, (h, w) = tags.shape[0], tags.shape[1:]
    places = (joints * joints.new_tensor((w / side[1], h / side[0]))).long()
    column, row = places[..., 0].clamp(0, w - 1), places[..., 1].clamp(0, h - 1)
    own = tags[torch.arange(J), row, column]  # (N, J)
    means = own.mean(1)
    pull = ((own - means[:, None]) ** 2).mean()
    missing = (APART - (means[:, None] - means).abs()).clamp(min=0) ** 2
    others = ~torch.eye(len(means), dtype=torch.bool)
    return pull + (missing[others].mean() if len(means) > 1 else pull.new_zeros(()))


def on_lines(outputs: Any, ends: list[Tensor], side: tuple[int, int]) -> Tensor:
    """Weighted cross-entropy of the middles, and Huber's loss of the ends at these. `ends`: of each picture (N, 2, 2) x, y in its pixels; the end
    more to the left is the first."""
    maps = main_output(outputs)
    H, W = maps.shape[2:]
    scale = maps.new_tensor((W / side[1], H / side[0]))
    losses = []
    for own, these in zip(maps, ends, strict=True):
        places = ordered(these) * scale
        middles = places.mean(1)
        cells = middles.long().clamp(min=0).minimum(torch.tensor((W - 1, H - 1)))
        wanted = hills(cells + 0.5, (H, W), MIDDLE_SIGMA)
        middle = F.binary_cross_entropy_with_logits(own[0], wanted, weight=1 + THERE * wanted)
        found = own[1:5, cells[:, 1], cells[:, 0]].T  # (N, 4)
        error = F.smooth_l1_loss(found, (places - cells[:, None]).flatten(1)) if len(these) else middle.new_zeros(())
        losses.append(middle + END_WEIGHT * error)
    return torch.stack(losses).mean()


def ordered(ends: Tensor) -> Tensor:
    """(N, 2, 2): the end more to the left first."""
    turned = ends[:, 0, 0] > ends[:, 1, 0]
    return torch.where(turned[:, None, None], ends.flip(1), ends)
