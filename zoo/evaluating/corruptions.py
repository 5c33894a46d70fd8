"""Corruptions of ImageNet-C (arXiv:1903.12261), made by the package `imagecorruptions` of what a model sees: its crop, before it is normalised."""

from __future__ import annotations

import re
import threading
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from zoo.data.transforms import Transform
from zoo.errors import InputError, Problem, listed, nearest

SEVERITIES = range(1, 6)
ALL = "all"
LEAST_SIDE = 32
"""Of pictures that the package corrupts."""
ASKED = re.compile(r"([a-z_]+)(?:@([1-5]))?")
_drawing = threading.Lock()
"""The package draws from numpy's one generator."""


class Corruption(NamedTuple):
    """One of the package's, at a severity from 1 to 5."""

    name: str
    severity: int

    def __str__(self) -> str:
        return f"{self.name}@{self.severity}"


def corruptions(words: str) -> list[Corruption]:
    """Of `fog@3,snow`: a name without a severity is all five, `all` are the fifteen of ImageNet-C. Raises InputError."""
    if not words:
        return []
    known = list(_package().get_corruption_names("all"))
    found = []
    for word in (word.strip() for word in words.split(",")):
        match = ASKED.fullmatch(word)
        names = list(_package().get_corruption_names()) if word == ALL else [match[1] if match else ""]
        if match is None or not set(names) <= set(known):
            expected = f"NAME or NAME@SEVERITY with one of {listed(known)}"
            raise InputError(
                "evaluate", Problem("--corrupt", expected, f"`{word}`", nearest(word.partition("@")[0], known))
            )
        severities = [int(match[2])] if match[2] else list(SEVERITIES)
        found += [Corruption(name, severity) for name in names for severity in severities]
    return found


class Corrupting(Transform):
    """The transform of a model, with pictures corrupted in between. A picture is corrupted in the same way each time."""

    def __init__(self, transform: Transform, corruption: Corruption):
        super().__init__(transform.preprocess)
        self.corruption = corruption
        if min(self.preprocess.rows_and_columns) < LEAST_SIDE:
            found = f"{min(self.preprocess.rows_and_columns)}"
            raise InputError("evaluate", Problem("--corrupt", f"a model of at least {LEAST_SIDE} pixels a side", found))

    def cropped(self, image: Image.Image) -> Image.Image:
        """The crop, corrupted as colours; greys are grey again."""
        seen = super().cropped(image)
        pixels = np.asarray(seen.convert("RGB"))
        with _drawing:
            before = np.random.get_state()
            np.random.seed(zlib.crc32(pixels.tobytes()))
            try:
                made = _package().corrupt(
                    pixels, corruption_name=self.corruption.name, severity=self.corruption.severity
                )
            finally:
                np.random.set_state(before)
        return Image.fromarray(np.asarray(made, np.uint8)).convert(seen.mode)


def _package() -> Any:
    """Raises InputError where it is not installed."""
    try:
        import imagecorruptions
    except ImportError:
        step = 'pip install "blockzoo[corruptions]"'
        raise InputError("evaluate", Problem("--corrupt", "imagecorruptions", "no such package", next=step)) from None
    return imagecorruptions
