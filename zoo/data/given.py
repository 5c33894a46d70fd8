"""What a net for a task is given of the scene of a number, and what it is to say about it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zoo.data.distances import distant
from zoo.data.moves import moving
from zoo.data.persons import persons
from zoo.data.scenes import Scene, noisy, scene, small
from zoo.data.segments import segments


class Given(NamedTuple):
    """The picture that a net sees of a scene, and `wanted`, what it is to say beyond boxes and classes: a picture (S, S, 3) uint8, distances
    (S, S) float32, joints (N, 17, 2) or the ends of lines (N, 2, 2), both float32 x, y in pixels. For `video-classification` `picture` is that of the first frame, and
    `wanted` the frames (T, S, S, 3) uint8, whose class is the first of the scene's."""

    scene: Scene
    picture: np.ndarray
    wanted: np.ndarray


def given(number: int, size: int, task: str, scale: int = 1) -> Given:
    """The scene of a number for a task; noisy for `image-restoration`, for `super-resolution` made small by `scale`."""
    if task in DRAWN:
        made, wanted = DRAWN[task](number, size)
        return Given(made, made.picture, wanted)
    made = scene(number, size - size % scale)
    if task == "image-restoration":
        return Given(made, noisy(made.picture, number), made.picture)
    return Given(made, small(made.picture, scale) if task == "super-resolution" else made.picture, made.picture)


DRAWN = {
    "depth-estimation": distant,
    "pose-estimation": persons,
    "line-detection": segments,
    "video-classification": moving,
}
"""Tasks whose scenes are drawn for them."""
