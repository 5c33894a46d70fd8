"""Scenes of straight lines on a texture, with their ends."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from zoo.data.scenes import Scene, contrasting, texture

MOST_LINES = 4
SHORTEST, LONGEST = 0.2, 0.45
"""Of the side of the picture."""
APART = 0.1
"""Of the side: how far the middles of two lines are from each other at least."""
FINER = 4
"""Times as fine as the picture lines are drawn, so that their borders are smooth."""


def segments(number: int, size: int = 64) -> tuple[Scene, np.ndarray]:
    """The lines of a number, and their ends (N, 2, 2): x, y in pixels, the end more to the left first. All are of class 0."""
    random = np.random.RandomState((number + 2) % 2**32)
    colours = random.uniform(0, 255, (2, 3))
    canvas, mask = texture(random, size, colours), np.zeros((size, size), np.uint8)
    ends: list[np.ndarray] = []
    for _ in range(random.randint(1, MOST_LINES + 1)):
        line = _drawn(random, size, ends)
        ends.append(line[line[:, 0].argsort(kind="stable")])
        cover = stroke(size, line, random.uniform(0.02, 0.035) * size)
        canvas = canvas * (1 - cover) + contrasting(random, colours) * cover
        mask[cover[..., 0] > 0.5] = 1
    picture = np.clip(canvas + random.normal(0, 4, canvas.shape), 0, 255).round().astype(np.uint8)
    places = np.array(ends, np.float32)
    boxes = np.concatenate((places.min(1), places.max(1)), 1)
    return Scene(picture, boxes, np.zeros(len(boxes), np.int64), mask), places


def _drawn(random: np.random.RandomState, size: int, others: list[np.ndarray]) -> np.ndarray:
    """Two ends in the picture, neither near each other nor far apart, whose middle is not that of another line."""
    while True:
        line: np.ndarray = random.uniform(1, size - 1, (2, 2))
        apart = (np.linalg.norm(line.mean(0) - other.mean(0)) >= APART * size for other in others)
        if SHORTEST * size <= np.linalg.norm(line[0] - line[1]) <= LONGEST * size and all(apart):
            return line


def stroke(size: int, points: np.ndarray, width: float) -> np.ndarray:
    """(S, S, 1): how much of each pixel a line through the points (N, 2) covers, which is `width` pixels wide and round at its ends."""
    fine = Image.new("L", (size * FINER, size * FINER))
    pen, radius = ImageDraw.Draw(fine), width * FINER / 2
    places = [(float(x) * FINER, float(y) * FINER) for x, y in points]
    pen.line(places, fill=255, width=max(1, round(2 * radius)))
    for x, y in places:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(fine.reduce(FINER), np.float64)[..., None] / 255
