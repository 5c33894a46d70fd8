"""Scenes that code draws: things on a texture, with their boxes, classes and masks; and the same pictures small or noisy.

A scene follows from its number and its size alone. Those from `HELD_OUT` on are for judging: no training asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

SCENES = "scenes"
"""What they are called among data sets, and the tag of weights that learned from them."""
THINGS = ("disc", "square", "triangle", "text")
HELD_OUT = 2**31
"""The number of the first scene that is never trained on."""
MOST_THINGS = 4
LEAST_CONTRAST = 60.0
"""Between a thing and its ground, in levels of grey, so that nets that see greys see it, too."""
LUMA = np.array([0.299, 0.587, 0.114])
"""The greys of colours, as PIL has them."""
MOST_OVERLAP = 0.1
"""Of two boxes, as a share of the smaller one."""
SIGMA = 25.0
"""Of the noise, in levels of 255, as denoisers are judged."""
GLYPHS = (
    "111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001",
    "111100111001111", "111100111101111", "111001010010010", "111101111101111", "111101111001111",
)  # fmt: skip
"""The digits, 5 rows of 3 pixels each."""


class Scene(NamedTuple):
    """`picture` (S, S, 3) uint8; `boxes` (N, 4) float32 x1, y1, x2, y2 in pixels; `classes` (N,) int64 into THINGS; `mask` (S, S) uint8:
    0 for the ground, else one more than the class of what is seen there."""

    picture: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    mask: np.ndarray


def scene(number: int, size: int = 64) -> Scene:
    """The scene of a number, `size` pixels to each side."""
    return scene_and_owners(number, size)[0]


def scene_and_owners(number: int, size: int) -> tuple[Scene, np.ndarray]:
    """The scene of a number, and of each pixel (S, S) which thing is seen there, from 1 on in the order of the boxes; 0 for the ground."""
    random = np.random.RandomState(number % 2**32)
    colours = random.uniform(0, 255, (2, 3))
    canvas = texture(random, size, colours)
    mask, owners, classes = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8), []
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(random.randint(1, MOST_THINGS + 1)):
        kind = int(random.randint(len(THINGS)))
        shape = _placed(random, size, kind, boxes)
        if shape is None:
            continue
        rows, columns = np.nonzero(shape)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        classes.append(kind)
        mask[shape], owners[shape] = kind + 1, len(boxes)
        canvas[shape] = contrasting(random, colours) + random.uniform(-12, 12, (len(rows), 1))
    picture = np.clip(canvas + random.normal(0, 4, canvas.shape), 0, 255).round().astype(np.uint8)
    return Scene(picture, np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), mask), owners


def scenes(count: int, size: int = 64, first: int = HELD_OUT) -> Iterator[Scene]:
    """So many scenes, from the number `first` on; without it those that judge."""
    return (scene(number, size) for number in range(first, first + count))


def small(picture: np.ndarray, scale: int) -> np.ndarray:
    """(H, W, C) -> (H / scale, W / scale, C) by PIL's bicubic filter, as super-resolution is judged."""
    image = Image.fromarray(picture)
    return np.asarray(image.resize((image.width // scale, image.height // scale), Image.Resampling.BICUBIC))


def noisy(picture: np.ndarray, number: int, sigma: float = SIGMA) -> np.ndarray:
    """With normal noise, which follows from the number; cut to 0 to 255."""
    noise = np.random.RandomState((number + 1) % 2**32).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).round().astype(np.uint8)


def texture(random: np.random.RandomState, size: int, colours: np.ndarray) -> np.ndarray:
    """(S, S, 3): two colours that change in waves, in checks, or slowly from one end to the other."""
    y, x = np.mgrid[:size, :size] / size
    angle, waves, phase = random.uniform(0, math.tau), random.uniform(2, 8), random.uniform(0, math.tau)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    kind = random.randint(3)
    if kind == 0:
        share = 0.5 + 0.5 * np.sin(math.tau * waves * along + phase)
    elif kind == 1:
        share = (np.sin(math.tau * waves * along + phase) * np.sin(math.tau * waves * across) > 0).astype(np.float64)
    else:
        share = np.clip(0.5 + along / 2, 0, 1)
    share = 0.5 + random.uniform(0.1, 0.35) * (share - 0.5)
    return share[..., None] * colours[0] + (1 - share[..., None]) * colours[1]


def contrasting(random: np.random.RandomState, colours: np.ndarray) -> np.ndarray:
    """A colour that is lighter or darker than the mean of others by far."""
    ground = colours.mean(0) @ LUMA
    while True:
        colour: np.ndarray = random.uniform(0, 255, 3)
        if abs(colour @ LUMA - ground) >= LEAST_CONTRAST:
            return colour


def _placed(
    random: np.random.RandomState, size: int, kind: int, boxes: list[tuple[int, int, int, int]]
) -> np.ndarray | None:
    """(S, S) bool: a thing that hides next to nothing of the others; None where ten places hide something."""
    for _ in range(10):
        side = random.uniform(0.2, 0.45) * size
        x, y = random.uniform(side / 2, size - side / 2, 2)
        box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
        if all(overlap(box, other) <= MOST_OVERLAP for other in boxes):
            shape = (
                _text(random, size, box) if kind == THINGS.index("text") else _shape(random, size, kind, x, y, side / 2)
            )
            return shape if shape.any() else None
    return None


def _shape(random: np.random.RandomState, size: int, kind: int, x: float, y: float, radius: float) -> np.ndarray:
    """A thing that is turned by any angle."""
    return shape_of(size, kind, x, y, radius, 0.0 if THINGS[kind] == "disc" else random.uniform(0, math.tau))


def shape_of(size: int, kind: int, x: float, y: float, radius: float, turn: float) -> np.ndarray:
    """(S, S) bool: a disc, or a square or triangle that is turned, within `radius` of its middle."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    across, down = columns - x, rows - y
    if THINGS[kind] == "disc":
        return np.asarray(across**2 + down**2 <= radius**2)
    corners = 4 if THINGS[kind] == "square" else 3
    angles = turn + np.arange(corners) * math.tau / corners
    inner = radius * math.cos(math.pi / corners)  # from the middle to an edge
    return np.all([across * math.cos(a) + down * math.sin(a) <= inner for a in angles], axis=0)


def _text(random: np.random.RandomState, size: int, box: tuple[float, ...]) -> np.ndarray:
    """A few digits in a row, as large as the box takes."""
    count = random.randint(2, 4)
    glyphs = [np.array(list(map(int, GLYPHS[g])), bool).reshape(5, 3) for g in random.randint(0, len(GLYPHS), count)]
    line = np.hstack([np.pad(glyph, ((0, 0), (0, 1))) for glyph in glyphs])[:, :-1]
    factor = max(1, int((box[2] - box[0]) // line.shape[1]))
    line = line.repeat(factor, 0).repeat(factor, 1)
    shape = np.zeros((size, size), bool)
    top, left = max(0, int(box[1])), max(0, int(box[0]))
    part = line[: size - top, : size - left]
    shape[top : top + part.shape[0], left : left + part.shape[1]] = part
    return shape


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The area of both boxes, as a share of the smaller one."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(0.0, width) * max(0.0, height) / min(areas)
