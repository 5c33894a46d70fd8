"""Handwritten digits: 1,797 real 8 x 8 scans from scikit-learn, with a fixed fifth held out. The held-out ones ship with the package.

`python -m zoo.data.digits` writes that file anew; a test holds it to scikit-learn's data.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.transforms import Transform
from zoo.errors import InputError, Problem
from zoo.weights.manifest import Preprocess

HELD_OUT = pathlib.Path(__file__).parents[1] / "models" / "data" / "digits_held_out.npz"
SPLIT_SEED = 2026
HELD_OUT_SHARE = 0.2
PREPROCESS = Preprocess(size=32, mean=(0.3,), std=(0.37,), channels=1, interpolation="bilinear", crop=1.0)
"""Up to 32 x 32, roughly centred: the digits' own mean and deviation."""

Digits = tuple[np.ndarray, np.ndarray]


def held_out() -> Digits:
    """(images (359, 8, 8) uint8 from 0 to 255, labels (359,) int64): nothing was trained on these."""
    with np.load(HELD_OUT, allow_pickle=False) as data:
        return data["images"], data["labels"].astype(np.int64)


def training_set() -> Digits:
    """The other four fifths, from scikit-learn. Raises InputError when that is not installed."""
    images, labels = _all()
    rows = ~_split(labels)
    return images[rows], labels[rows]


def _all() -> Digits:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "digits",
            Problem(
                "", "scikit-learn, which carries the scans", "no such package", next='pip install "blockzoo[train]"'
            ),
        ) from None
    data = load_digits()
    return (data.images * (255 / 16)).round().astype(np.uint8), data.target.astype(np.int64)


def _split(labels: np.ndarray) -> np.ndarray:
    """True at the held-out scans: of each digit a fifth, drawn once."""
    chosen = np.zeros(len(labels), bool)
    draw = np.random.RandomState(SPLIT_SEED)
    for digit in range(10):
        places = np.flatnonzero(labels == digit)
        chosen[draw.permutation(places)[: round(len(places) * HELD_OUT_SHARE)]] = True
    return chosen


def to_input(images: np.ndarray, preprocess: Preprocess = PREPROCESS) -> Tensor:
    """uint8 scans (N, 8, 8) -> float32 (N, 1, size, size), through the transform that files take."""
    prepare = Transform(preprocess)
    return torch.cat([prepare(Image.fromarray(image)) for image in images])


def main() -> None:
    """Writes the held-out scans."""
    images, labels = _all()
    chosen = _split(labels)
    HELD_OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(HELD_OUT, images=images[chosen], labels=labels[chosen].astype(np.uint8))
    print(f"{chosen.sum()} of {len(labels)} scans written to {HELD_OUT.name}")


if __name__ == "__main__":
    main()
