"""Places in maps: joints of persons with the tags that tell persons apart, and lines by their middles and ends.

Papers: arXiv:1611.05424 (tags), arXiv:1908.10357 (maps of two sizes), arXiv:2106.00186 (lines).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MOST_PERSONS, MOST_LINES = 30, 200
JOINT_RADIUS, LINE_RADIUS = 2, 1
"""How many rows and columns around a place it is the highest of."""
ALIKE = 1.0
"""Tags that differ by less are those of one person."""
LEAST_JOINT = 0.1
"""From which score on a peak is a joint of somebody."""


def peaks(maps: Tensor, radius: int, count: int) -> tuple[Tensor, Tensor]:
    """(B, J, H, W) -> the values (B, J, count) and places (B, J, count), row by row, of the pixels that are the highest around them; value 0
    where there are not as many."""
    highest = F.max_pool2d(maps, 2 * radius + 1, 1, radius)
    kept = torch.where(maps == highest, maps, 0.0).flatten(2)
    values, places = kept.topk(min(count, kept.shape[-1]), -1)
    return values.clamp(min=0), places


def joints(coarse: Tensor, fine: Tensor, side: tuple[int, int], count: int = MOST_PERSONS) -> Tensor:
    """Maps and tags (B, 2 J, h, w) and finer maps (B, J, H, W) of a picture of `side`, rows and columns -> (B, J, count, 4): x, y, score, tag.

    The maps of both sizes are averaged. A joint lies a quarter of a pixel from the middle of its own, towards the higher of the neighbours
    on either axis."""
    J, (H, W) = fine.shape[1], fine.shape[2:]
    larger = F.interpolate(coarse, size=(H, W), mode="bilinear", align_corners=False)
    maps, tags = (larger[:, :J] + fine) / 2, larger[:, J:].flatten(2)
    values, places = peaks(maps, JOINT_RADIUS, count)
    rows, columns = places // W, places % W
    flat = maps.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return flat.gather(2, row.clamp(0, H - 1) * W + column.clamp(0, W - 1))

    across = (at(rows, columns + 1) - at(rows, columns - 1)).sign() / 4
    down = (at(rows + 1, columns) - at(rows - 1, columns)).sign() / 4
    x, y = (columns + 0.5 + across) * (side[1] / W), (rows + 0.5 + down) * (side[0] / H)
    return torch.stack((x, y, values, tags.gather(2, places)), -1)


def persons(found: np.ndarray, least: float = LEAST_JOINT) -> np.ndarray:
    """(J, K, 4) of one picture -> (N, J, 3): of each person x, y and score of every joint, score 0 where nobody saw it; the surest first.

    Joint after joint the pairs of a place and a person whose tags differ least are made one; a place whose tag is like nobody's begins a
    person. A person's tag is the mean of its joints'."""
    J = len(found)
    people: list[tuple[np.ndarray, list[float]]] = []
    for joint in range(J):
        places = found[joint][found[joint, :, 2] >= least]
        differences = np.array([[abs(tag - np.mean(tags)) for _, tags in people] for tag in places[:, 3]])
        free_places, free_people = set(range(len(places))), set(range(len(people)))
        for place, person in _by_difference(differences):
            if place in free_places and person in free_people and differences[place, person] < ALIKE:
                people[person][0][joint] = places[place, :3]
                people[person][1].append(float(places[place, 3]))
                free_places.remove(place)
                free_people.remove(person)
        for place in sorted(free_places):
            person_joints = np.zeros((J, 3), np.float32)
            person_joints[joint] = places[place, :3]
            people.append((person_joints, [float(places[place, 3])]))
    made = sorted((own for own, _ in people), key=lambda own: -own[:, 2].mean())
    return np.stack(made) if made else np.zeros((0, J, 3), np.float32)


def _by_difference(differences: np.ndarray) -> list[tuple[int, int]]:
    """(place, person) from the pair that is most alike on."""
    if not differences.size:
        return []
    order = differences.argsort(axis=None, kind="stable")
    return [
        (int(place), int(person)) for place, person in zip(*np.unravel_index(order, differences.shape), strict=True)
    ]


def lines(maps: Tensor, side: tuple[int, int], count: int = MOST_LINES) -> tuple[Tensor, Tensor]:
    """(B, 5 or more, H, W) -> (B, count, 4) x1, y1, x2, y2 in pixels of a picture of `side`, and scores (B, count).

    Of a pixel the maps tell whether a line has its middle there (the sigmoid of the first), and how far its two ends are from it, across
    and down, in pixels of the maps (the next four)."""
    H, W = maps.shape[2:]
    values, places = peaks(maps[:, :1].sigmoid(), LINE_RADIUS, count)
    scores, places = values[:, 0], places[:, 0]
    middles = torch.stack((places % W, places // W), -1).to(maps.dtype).repeat(1, 1, 2)
    ends = maps[:, 1:5].flatten(2).gather(2, places[:, None].expand(-1, 4, -1)).transpose(1, 2)
    scale = maps.new_tensor((side[1] / W, side[0] / H)).repeat(2)
    return (middles + ends) * scale, scores
