"""One run: a host trained from scratch on the data that it is made for, by the one recipe of that data."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import msgspec
import torch

from zoo.data import digits
from zoo.data import pydoc as text
from zoo.errors import InputError, Problem
from zoo.specs.inputs import ImageInput
from zoo.specs.model import Spec
from zoo.training.digits import Recipe, fit
from zoo.training.pydoc import TextRecipe, fit_text

RATES = (0.5, 1.0, 2.0)
"""Learning rates that every contestant is tuned over, as multiples of the recipe's."""
TUNING = 0.25
"""Share of a run's length that is enough to choose a learning rate."""


class Setting(NamedTuple):
    """How long a run is, in epochs or steps; by what factor its learning rate differs from the recipe's; its seed."""

    length: int
    rate: float = 1.0
    seed: int = 0


def measure_of(spec: Spec) -> str:
    """What is measured on a host: `digits/top1`, or `pydoc/bits_per_byte`. Raises InputError for a host of other data."""
    if isinstance(spec.input, ImageInput):
        if (spec.input.channels, spec.input.size, spec.num_classes) == (
            digits.PREPROCESS.channels,
            digits.PREPROCESS.size,
            10,
        ):
            return "digits/top1"
    elif getattr(spec.input, "vocab_size", None) == text.BYTES:
        return "pydoc/bits_per_byte"
    hint = "hosts that end in _nano: `zoo list '*_nano'`"
    raise InputError(
        spec.name, Problem("input", "scans of 32 x 32 in 10 classes, or bytes", "another input", next=hint)
    )


def usual_length(spec: Spec) -> int:
    """Epochs, or steps, of a whole run of the recipe."""
    return Recipe().epochs if measure_of(spec) == "digits/top1" else TextRecipe().steps


def score(spec: Spec, setting: Setting, tuning: bool = False) -> float:
    """Accuracy, or bits per byte below zero, so that more is better. While tuning, on training data that is set aside for it."""
    import zoo

    torch.manual_seed(setting.seed)
    model: Any = zoo.create(spec)
    if measure_of(spec) == "digits/top1":
        recipe = Recipe()
        recipe = msgspec.structs.replace(recipe, epochs=setting.length, lr=recipe.lr * setting.rate, seed=setting.seed)
        return fit(model, recipe, tuning=tuning).accuracy
    words = TextRecipe()
    words = msgspec.structs.replace(words, steps=setting.length, lr=words.lr * setting.rate, seed=setting.seed)
    return -fit_text(model, words, tuning=tuning).bits_per_byte


def seconds_of(spec: Spec) -> float:
    """What a unit of length takes: an epoch, or a step; by a run of the shortest length."""
    length = 1 if measure_of(spec) == "digits/top1" else 8
    start = time.perf_counter()
    score(spec, Setting(length), tuning=True)
    return (time.perf_counter() - start) / length
