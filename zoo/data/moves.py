"""Clips that code draws: a thing on a texture that stands, moves, grows or shrinks."""

from __future__ import annotations

import numpy as np

from zoo.data.scenes import Scene, contrasting, shape_of, texture

CHANGES = ("stands", "moves", "grows", "shrinks")
"""The classes: what the thing does."""
FRAMES = 4
LEAST_RADIUS, MOST_RADIUS, TIMES = 0.12, 0.18, 2.2
"""Of a thing while it is small, as shares of the side of the picture, and how many times as large it is when it is large."""
LEAST_WAY = 0.25
"""How far a thing moves at least from the first frame to the last, as a share of the side."""


def moving(number: int, size: int = 64) -> tuple[Scene, np.ndarray]:
    """The scene of the first frame, whose class is that of the clip, and the frames (4, S, S, 3) uint8. The thing stays in the picture."""
    random = np.random.RandomState((number + 4) % 2**32)
    colours = random.uniform(0, 255, (2, 3))
    ground, colour = texture(random, size, colours), contrasting(random, colours)
    kind, change, turn = int(random.randint(3)), int(random.randint(len(CHANGES))), random.uniform(0, 2 * np.pi)
    small = random.uniform(LEAST_RADIUS, MOST_RADIUS) * size
    first, last = {"grows": (small, TIMES * small), "shrinks": (TIMES * small, small)}.get(
        CHANGES[change], (1.5 * small,) * 2
    )
    border = max(first, last)
    start = end = random.uniform(border, size - border, 2)
    while CHANGES[change] == "moves" and np.linalg.norm(end - start) < LEAST_WAY * size:
        start, end = random.uniform(border, size - border, (2, 2))
    shares = np.linspace(0, 1, FRAMES)
    ways = [start + (end - start) * t for t in shares]
    covers = [
        shape_of(size, kind, float(way[0]), float(way[1]), first + (last - first) * t, turn)
        for way, t in zip(ways, shares, strict=True)
    ]
    frames = np.where(np.stack(covers)[..., None], colour, ground) + random.normal(0, 4, (FRAMES, size, size, 3))
    seen = np.clip(frames, 0, 255).round().astype(np.uint8)
    rows, columns = np.nonzero(covers[0])
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    return Scene(seen[0], box, np.array([change]), covers[0].astype(np.uint8)), seen
