"""Scenes in depth: things that stand on a floor which goes back from the lower border of the picture, in haze."""

from __future__ import annotations

import numpy as np

from zoo.data.scenes import Scene, scene_and_owners

NEAR, FAR = 1.0, 8.0
"""How far away the floor is at the lower and at the upper border, in metres."""
HAZE, CLEAR = 200.0, 6.0
"""The grey of haze, and after how many metres 1 / e of what is seen is left."""


def distant(number: int, size: int = 64) -> tuple[Scene, np.ndarray]:
    """The scene of a number in haze, and how far away each pixel is: (S, S) float32, metres.

    A floor at y, from 0 above to 1 below, has 1 / d = y / near + (1 - y) / far, as a plane has in perspective. A thing is as far away as
    the floor at its lower border, all of it.
    """
    made, owners = scene_and_owners(number, size)
    rows = (np.arange(size) + 0.5) / size
    depth = np.broadcast_to(_floor(rows)[:, None], (size, size)).copy()
    for place, bottom in enumerate(made.boxes[:, 3], 1):
        depth[owners == place] = _floor(bottom / size)
    seen = np.exp((NEAR - depth) / CLEAR)[..., None]
    picture = (HAZE + (made.picture - HAZE) * seen).round().astype(np.uint8)
    return made._replace(picture=picture), depth.astype(np.float32)


def _floor(y: np.ndarray | float) -> np.ndarray:
    """Metres at a share y of the rows."""
    return 1 / np.asarray(y / NEAR + (1 - y) / FAR)
