"""Boxes in torch: what two have in common, and the best of a list without doubles. (x1, y1, x2, y2) in pixels throughout."""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES, MOST = 1000, 100
"""Boxes that are looked at, the surest first, and those that are picked of them at most: 100, as COCO judges."""
OVERLAP, LEAST = 0.5, 0.05
"""From which overlap on a box is the double of a surer one of its class, and from which score on a box counts."""


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, y, width, height -> x1, y1, x2, y2."""
    middles, sides = boxes.split(2, -1)
    return torch.cat((middles - sides / 2, middles + sides / 2), -1)


def shared(one: Tensor, other: Tensor) -> Tensor:
    """(..., N, 4), (..., M, 4) -> (..., N, M): the area of both over the area of either; 0 for boxes without any."""
    first = torch.maximum(one[..., :, None, :2], other[..., None, :, :2])
    last = torch.minimum(one[..., :, None, 2:], other[..., None, :, 2:])
    both = (last - first).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) for boxes in (one, other)]
    either = areas[0][..., :, None] + areas[1][..., None, :] - both
    return both / either.clamp(min=torch.finfo(both.dtype).tiny)


def pick(
    boxes: Tensor, scores: Tensor, *, overlap: float = OVERLAP, least: float = LEAST, most: int = MOST, candidates: int = CANDIDATES
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(B, P, 4), (B, C, P) -> boxes (B, `most`, 4), scores (B, `most`), classes (B, `most`): the surest first, no doubles in a class.

    Of the `candidates` surest pairs of box and class the surest is picked, those of its class that overlap it by more than `overlap` go,
    and so on: greedy suppression. A row of score 0 is none. The number of steps is known beforehand, so that a graph can hold them.
    """
    C, P = scores.shape[1:]
    values, places = scores.flatten(1).topk(min(candidates, C * P))
    values = torch.where(values >= least, values, 0.0)
    classes, rows = places // P, places % P
    boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    found = []
    for _ in range(min(most, C * P)):
        best = values.argmax(1, keepdim=True)
        box, score, kind = (
            boxes.gather(1, best[..., None].expand(-1, -1, 4)),
            values.gather(1, best),
            classes.gather(1, best),
        )
        found.append((box, score, kind))
        double = (classes == kind) & (shared(box, boxes)[:, 0] > overlap)
        itself = torch.arange(values.shape[1], device=values.device) == best
        values = torch.where(double | itself, 0.0, values)
    picked = [torch.cat(column, 1) for column in zip(*found, strict=True)]
    return picked[0], picked[1], picked[2]
