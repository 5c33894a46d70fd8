"""Clips: the frames of a moving picture (GIF, WebP, APNG, or a TIFF of several pages), and what a net for video is given of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence, UnidentifiedImageError
from torch import Tensor

from zoo.data.pictures import Picture
from zoo.data.transforms import Transform, as_seen
from zoo.errors import InputError, Problem
from zoo.specs.inputs import FramesInput

GAP = 2
"""Pixels between two frames that are shown beside each other."""
MOST_PIXELS = 2**28
"""Of all frames of a moving picture together."""


def frames_of(picture: Picture, count: int) -> list[Image.Image]:
    """`count` frames of a moving picture, as far from each other as there are; of one that has fewer some come again.

    Raises InputError for what is no moving picture."""
    expected = "a moving picture (GIF, WebP, APNG) of several frames"
    try:
        with Image.open(io.BytesIO(picture.read())) as image:
            whole = getattr(image, "n_frames", 1)
            if whole < 2:
                raise InputError(picture.name, Problem("", expected, "a picture that does not move"))
            if whole * image.width * image.height > MOST_PIXELS:
                found = f"{whole:,} frames of {image.width} x {image.height}"
                raise InputError(picture.name, Problem("", f"at most {MOST_PIXELS:,} pixels", found))
            wanted = [place * whole // count for place in range(count)]
            kept = {i: as_seen(frame.copy()) for i, frame in enumerate(ImageSequence.Iterator(image)) if i in wanted}
            return [kept[i].convert("RGB") for i in wanted]
    except UnidentifiedImageError:
        raise InputError(picture.name, Problem("", expected, "a file that is no image")) from None
    except (OSError, SyntaxError, ValueError, EOFError, KeyError) as error:
        raise InputError(picture.name, Problem("", expected, f"a damaged one: {error}")) from None


def as_clip(prepare: Transform, frames: Sequence[Any] | np.ndarray, form: Any) -> Tensor:
    """The frames as a net sees them: (C, T, H, W), or (T, C, H, W) where the `form` of its input says so."""
    seen = torch.stack([prepare.one(frame) for frame in frames])
    return seen if isinstance(form, FramesInput) else seen.transpose(0, 1)


def beside_each_other(frames: Sequence[Image.Image]) -> Image.Image:
    """The frames in a row, the first on the left."""
    width, height = frames[0].size
    row = Image.new("RGB", (len(frames) * (width + GAP) - GAP, height), "white")
    for place, frame in enumerate(frames):
        row.paste(frame.convert("RGB"), (place * (width + GAP), 0))
    return row
