"""Pictures as a net sees them in training: cropped, mirrored, recoloured, partly erased, and in a batch mixed with each other.

What is drawn comes from the global generators, which `seeds` sets for each picture. Operations are timm's, but for the crop.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageEnhance
from torch import Tensor

from zoo._timm import import_timm
from zoo.data.bands import Bands
from zoo.data.transforms import Transform
from zoo.errors import InputError, Problem
from zoo.training.recipe import Augment
from zoo.weights.manifest import Preprocess

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
FLIPS = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)


class Augmented(Transform):
    """The transform of the training part, as a recipe says."""

    def __init__(self, preprocess: Preprocess, augment: Augment):
        super().__init__(preprocess, train=True)
        self.area, self.ratio, self.augment = augment.scale, augment.ratio, augment
        self.operations: Callable[[Image.Image], Image.Image] | None = None
        self.erase: Callable[[Tensor], Tensor] | None = None
        if augment.randaugment:
            self.operations = _rand_augment(augment.randaugment, preprocess)
        if augment.erasing:
            import_timm()
            from timm.data.random_erasing import RandomErasing

            self.erase = RandomErasing(augment.erasing, mode="pixel", device="cpu")

    def cropped(self, image: Image.Image) -> Image.Image:
        image = self.random_crop(image)
        for chance, flip in zip((self.augment.hflip, self.augment.vflip), FLIPS, strict=True):
            if random.random() < chance:
                image = image.transpose(flip)
        if (jitter := self.augment.jitter) and image.mode != Bands.mode:
            for enhancer in ENHANCERS[: 2 if image.mode == "L" else 3]:
                image = enhancer(image).enhance(random.uniform(1 - jitter, 1 + jitter))
        return image if self.operations is None else self.operations(image)

    def _uniform(self, low: float, high: float) -> float:
        return random.uniform(
            low, high
        )  # a crop takes ten of these, of which torch's each take longer than all of Python's

    def one(self, picture: Any) -> Tensor:
        x = super().one(picture)
        return x if self.erase is None else self.erase(x)


def _rand_augment(text: str, preprocess: Preprocess) -> Callable[[Image.Image], Image.Image]:
    """timm's, with the mean of the pictures where an operation moves the border in.

    Raises InputError for a text that timm cannot read, and for pictures that are neither grey nor of three colours."""
    if preprocess.channels not in (1, 3):
        found = f"pictures of {preprocess.channels} bands"
        raise InputError("recipe", Problem("augment.randaugment", "nothing, or pictures of 1 or 3 channels", found))
    import_timm()
    from timm.data.auto_augment import rand_augment_transform

    mean = tuple(min(255, max(0, round(255 * value))) for value in preprocess.mean)
    facts = {"translate_const": max(1, int(0.45 * min(preprocess.rows_and_columns))), "img_mean": mean}
    grey = preprocess.channels == 1
    try:
        operations = rand_augment_transform(text, facts | ({"img_mean": mean * 3} if grey else {}))
    except (AssertionError, ValueError, KeyError, NotImplementedError):
        step = "`rand-m7-n2-mstd0.5`: magnitude 7, two operations, magnitudes that vary by 0.5"
        raise InputError(
            "recipe", Problem("augment.randaugment", "a text that timm reads", f"`{text}`", next=step)
        ) from None
    return _OfGrey(operations) if grey else operations


class _OfGrey:
    """Operations on colours, for grey pictures."""

    def __init__(self, operations: Callable[[Image.Image], Image.Image]):
        self.operations = operations

    def __call__(self, image: Image.Image) -> Image.Image:
        return self.operations(image.convert("RGB")).convert("L")


def mixer(augment: Augment, smoothing: float, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """(x, classes) -> (x mixed, shares of the classes), timm's; None where a recipe mixes nothing."""
    if not augment.mixup and not augment.cutmix:
        return None
    import_timm()
    from timm.data.mixup import Mixup

    return Mixup(augment.mixup, augment.cutmix, label_smoothing=smoothing, num_classes=classes)  # type: ignore[no-any-return]
