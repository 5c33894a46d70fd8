"""How a picture is brought to the size that a net takes, and how what the net finds is brought back: boxes, masks, maps.

    crop        the middle of it, as classifiers see it
    letterbox   all of it, its sides in proportion, grey beside it
    stretch     all of it, as wide and as high as the net takes
    whole       all of it at its own size, its last rows and columns repeated up to a multiple of 16 pixels

Each is a scale and a shift for either axis: x of the net = x of the picture * scale + shift.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

MULTIPLE = 16
"""Pixels of which the sides of a `whole` picture are multiples: nets that halve it up to four times take these."""
GROUND = 114
"""The grey beside a picture in its letterbox, as detectors are trained."""


class Fit(NamedTuple):
    """From a picture of (width, height) into one of `side`, (columns, rows), by (across, down). `repeats`: what lies below and to the right
    of the picture are its last rows and columns."""

    picture: tuple[int, int]
    side: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False
    repeats: bool = False

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) x1, y1, x2, y2 of the picture, as the net sees them."""
        moved = boxes * np.tile(self.scale, 2) + np.tile(self.shift, 2)
        if self.mirrored:
            moved = moved * (-1, 1, -1, 1) + (self.side[0], 0, self.side[0], 0)
            moved = moved[:, [2, 1, 0, 3]]
        return moved.astype(np.float32)

    def boxes_back(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) of the net, as they lie in the picture, cut at its borders."""
        if self.mirrored:
            boxes = (boxes * (-1, 1, -1, 1) + (self.side[0], 0, self.side[0], 0))[:, [2, 1, 0, 3]]
        moved = (boxes - np.tile(self.shift, 2)) / np.tile(self.scale, 2)
        return np.clip(moved, 0, np.tile(self.picture, 2)).astype(np.float32)

    def points(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) x, y of the picture, as the net sees them."""
        moved = points * np.array(self.scale) + np.array(self.shift)
        if self.mirrored:
            moved = moved * (-1, 1) + (self.side[0], 0)
        return moved.astype(np.float32)

    def points_back(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) of the net, as they lie in the picture, or beside it."""
        own = points * (-1, 1) + (self.side[0], 0) if self.mirrored else points
        return ((own - np.array(self.shift)) / np.array(self.scale)).astype(np.float32)

    def image(self, image: Image.Image, how: Image.Resampling, ground: int = GROUND) -> Image.Image:
        """The picture as the net sees it; `ground` stands where there is none."""
        if self.repeats:
            right, below = (side - own for side, own in zip(self.side, self.picture, strict=True))
            beside = ((0, below), (0, right)) + ((0, 0),) * (image.mode == "RGB")
            seen = Image.fromarray(np.pad(np.asarray(image), beside, mode="edge"))
        else:
            size = self._scaled
            seen = Image.new(image.mode, self.side, (ground,) * len(image.getbands()))
            seen.paste(image.resize(size, how) if size != image.size else image, self._corner)
        return seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else seen

    def mask(self, mask: np.ndarray, ground: int = 0) -> np.ndarray:
        """(H, W) uint8, a class for each pixel of the picture, as the net sees it; `ground` where there is no picture."""
        return np.asarray(self.image(Image.fromarray(mask), Image.Resampling.NEAREST, ground))

    def map(self, values: np.ndarray) -> np.ndarray:
        """(H, W) floats, one for each pixel of the picture, as the net sees them; 0 where there is no picture."""
        return np.asarray(self.image(Image.fromarray(values.astype(np.float32)), Image.Resampling.NEAREST, 0))

    def map_back(self, values: np.ndarray) -> np.ndarray:
        """(rows, columns) of the net -> (height, width) of the picture: whole numbers by the nearest, floats bilinearly."""
        values = values[:, ::-1] if self.mirrored else values
        (left, top), (width, height) = self._corner, self._scaled
        part = Image.fromarray(np.ascontiguousarray(values)).crop((left, top, left + width, top + height))
        how = Image.Resampling.BILINEAR if values.dtype.kind == "f" else Image.Resampling.NEAREST
        return np.asarray(part if part.size == self.picture else part.resize(self.picture, how))

    @property
    def _scaled(self) -> tuple[int, int]:
        width, height = (max(1, round(own * scale)) for own, scale in zip(self.picture, self.scale, strict=True))
        return width, height

    @property
    def _corner(self) -> tuple[int, int]:
        return round(self.shift[0]), round(self.shift[1])


def letterbox(picture: tuple[int, int], side: tuple[int, int]) -> Fit:
    """In the middle, as large as there is room."""
    ratio = min(side[0] / picture[0], side[1] / picture[1])
    scaled = [max(1, round(own * ratio)) for own in picture]
    scale = (scaled[0] / picture[0], scaled[1] / picture[1])
    return Fit(picture, side, scale, (float((side[0] - scaled[0]) // 2), float((side[1] - scaled[1]) // 2)))


def stretch(picture: tuple[int, int], side: tuple[int, int]) -> Fit:
    return Fit(picture, side, (side[0] / picture[0], side[1] / picture[1]))


def whole(picture: tuple[int, int]) -> Fit:
    side = (picture[0] + -picture[0] % MULTIPLE, picture[1] + -picture[1] % MULTIPLE)
    return Fit(picture, side, repeats=True)


def crop(picture: tuple[int, int], side: tuple[int, int], scaled: tuple[int, int]) -> Fit:
    """The middle of a picture that is brought to the size `scaled`."""
    scale = (scaled[0] / picture[0], scaled[1] / picture[1])
    shift = tuple(float(-round((whole - part) / 2.0)) for whole, part in zip(scaled, side, strict=True))
    return Fit(picture, side, scale, (shift[0], shift[1]))
