"""Training small models on the digits: one recipe for all, reproducible from its seed; and how its result is published."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from zoo.artifacts.record import WEIGHTS
from zoo.build.groups import lr_scales
from zoo.data import digits
from zoo.errors import InputError, Problem
from zoo.specs.inputs import ImageInput
from zoo.training.embedded import command_of, embed
from zoo.training.loop import Progress, RunningAverage, train
from zoo.weights.manifest import Manifest, counted_metric
from zoo.weights.stats import wilson_interval

DIGITS = 10


class Recipe(msgspec.Struct, frozen=True):
    """AdamW with warm-up and a cosine to zero; decay only of matrices; shifted, turned and scaled copies of the scans.

    Each copy is enlarged by one of the `upscaling` ways at random, since a user's picture was enlarged in any of them, and
    a share `still` is not moved, since moving blurs what was enlarged without blur.
    """

    epochs: int = 40
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    turn: float = 0.2
    scale: float = 0.15
    shift: float = 0.12
    still: float = 0.25
    upscaling: tuple[str, ...] = ("bilinear", "bicubic", "nearest")
    ema_decay: float = 0.99
    seed: int = 0


class Result(NamedTuple):
    """A trained model, and its accuracy on the held-out scans with a 95 % Wilson interval."""

    model: nn.Module
    correct: int
    n: int
    ci95: tuple[float, float]
    seconds: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


def train_digits(name: str, recipe: Recipe = Recipe(), progress: Progress | None = None) -> Result:
    """Trains the model `name` from scratch on the training scans; the same seed gives the same weights on one machine.

    Raises InputError for a model that does not tell ten classes of grey pictures apart."""
    from zoo.factory import create

    torch.manual_seed(recipe.seed)
    model = create(name)
    check_scans(model)
    return fit(model, recipe, progress)


def check_scans(model: Any) -> None:
    """Raises InputError for a model that the scans of digits are no input of, or that answers something else than which of ten it is."""
    spec = model.spec
    takes = type(spec.input) is ImageInput and spec.input.channels == digits.PREPROCESS.channels and not spec.inputs
    if takes and spec.family.task == "image-classification" and spec.num_classes == DIGITS:
        return
    channels = f", {spec.input.channels} channels" if isinstance(spec.input, ImageInput) else ""
    found = f"one for {spec.family.task}{channels}, {spec.num_classes} classes"
    step = "`zoo train NAME --data DIR` trains on pictures of your own, `zoo train scenes NAME` for other tasks"
    expected = f"a model for image-classification, 1 channel, {DIGITS} classes"
    raise InputError("digits", Problem(spec.name, expected, found, next=step))


def fit(model: nn.Module, recipe: Recipe, progress: Progress | None = None, tuning: bool = False) -> Result:
    """Trains a model of (B, 1, 32, 32) -> (B, 10) in place; returns its running average, which is what generalises.

    `progress` is called after each epoch, with the mean loss of the epoch. While `tuning` a recipe, a fifth of the training scans is set
    aside and judges, so that the held-out ones stay unseen.
    """
    start = time.perf_counter()
    images, labels = digits.training_set()
    judges = digits.held_out()
    if tuning:
        aside = np.arange(len(labels)) % 5 == 0
        (images, labels), judges = (images[~aside], labels[~aside]), (images[aside], labels[aside])
    x, y = _enlarged(images, recipe.upscaling), torch.from_numpy(labels)
    epoch_steps = math.ceil(len(y) / recipe.batch_size)
    average = RunningAverage(model, recipe.ema_decay)
    steps = train(
        model, torch.optim.AdamW(_groups(model, recipe), lr=recipe.lr), _batches(x, y, recipe), partial(_loss, recipe),
        steps=recipe.epochs * epoch_steps, warmup=recipe.warmup, average=average, adapts_routers=True,
    )  # fmt: skip
    for epoch in range(recipe.epochs):
        losses = list(islice(steps, epoch_steps))
        if progress is not None:
            progress(epoch + 1, recipe.epochs, sum(losses) / len(losses))
    correct, n = evaluate(average.model, scans=judges)
    return Result(average.model, correct, n, wilson_interval(correct, n), time.perf_counter() - start)


def _batches(x: Tensor, y: Tensor, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, labels) of every step of all epochs: each scan once in an epoch, enlarged in one of the ways and moved a little."""
    draw = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(y), generator=draw).split(recipe.batch_size):
            way = torch.randint(len(x), rows.shape, generator=draw)
            yield _moved(x[way, rows], recipe, draw), y[rows]


def evaluate(model: nn.Module, batch_size: int = 128, scans: digits.Digits | None = None) -> tuple[int, int]:
    """(right answers, scans) on the held-out digits, or on others."""
    images, labels = scans if scans is not None else digits.held_out()
    x, y = digits.to_input(images), torch.from_numpy(labels)
    with torch.inference_mode():
        right = sum(
            int((model(part).argmax(-1) == truth).sum())
            for part, truth in zip(x.split(batch_size), y.split(batch_size), strict=True)
        )
    return right, len(y)


def _loss(recipe: Recipe, model: nn.Module, batch: tuple[Tensor, Tensor], ctx: Context) -> Tensor:
    x, y = batch
    ctx.write("classes", "", y)
    return F.cross_entropy(model(x, ctx), y, label_smoothing=recipe.label_smoothing)


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Matrices decay; scales, shifts and the like do not. Where a block asks for a rate of its own, it has it.

    Unlike `zoo.build.groups.param_groups`, it does not ask for `no_decay`: parameters of two and more axes that a block names there
    (`A_log`, tables of positions) decay, and groups stand in another order. The weights that ship were trained so; with the other
    groups the recipe would not give them again.
    """
    scales = lr_scales(model)
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim > 1, scales.get(name, 1.0)), []).append(parameter)
    return [
        {"params": params, "weight_decay": recipe.weight_decay if decays else 0.0, "lr": recipe.lr * scale}
        for (decays, scale), params in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def _enlarged(images: np.ndarray, upscaling: Sequence[str]) -> Tensor:
    """Scans (N, 8, 8) -> inputs (ways, N, 1, size, size), one way of enlarging them after the other."""
    ways = [msgspec.structs.replace(digits.PREPROCESS, interpolation=way) for way in upscaling]
    return torch.stack([digits.to_input(images, way) for way in ways])


def _moved(x: Tensor, recipe: Recipe, draw: torch.Generator) -> Tensor:
    """Each picture turned, scaled and shifted a little, at random; a share of them left as they are."""
    count = len(x)
    amount = (torch.rand(count, 4, generator=draw) * 2 - 1) * (torch.rand(count, 1, generator=draw) >= recipe.still)
    turn, scale, shift = amount[:, 0] * recipe.turn, 1 + amount[:, 1] * recipe.scale, amount[:, 2:] * recipe.shift
    maps = torch.stack(
        [turn.cos() * scale, -turn.sin() * scale, shift[:, 0], turn.sin() * scale, turn.cos() * scale, shift[:, 1]], 1
    )
    grid = F.affine_grid(maps.view(count, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def publish(name: str, result: Result, recipe: Recipe) -> Manifest:
    """Writes the weights and their manifest into the package that has the model: NAME.digits.safetensors and .json."""
    shape = (1, digits.PREPROCESS.channels, *digits.PREPROCESS.rows_and_columns)
    origin = "trained from scratch on scikit-learn's handwritten digits; smoke weights: proof that the block trains, no ranking"
    return embed(result.model, manifest_of(name, result, recipe), shape, origin)


def manifest_of(name: str, result: Result, recipe: Recipe) -> Manifest:
    """What is known of trained weights, wherever they will stand: how to prepare pictures, the classes, the recipe, the accuracy."""
    command = command_of("digits", name, recipe, ("epochs", "seed"))
    figure = counted_metric(
        result.correct, result.n, command=command, seed=recipe.seed, date=str(datetime.date.today())
    )
    return Manifest(
        model=name,
        tag="digits",
        digest=result.model.digest,  # type: ignore[arg-type]
        source=f"file:{WEIGHTS}",
        state="saved",
        dtype="float32",
        licence="Apache-2.0",
        licence_class="permissive",
        origin="trained from scratch on scikit-learn's handwritten digits",
        preprocess=digits.PREPROCESS,
        labels=tuple(str(digit) for digit in range(DIGITS)),
        metrics={f"digits/top1@{digits.PREPROCESS.size}": figure},
        recipe=command,
    )


def main(names: list[str]) -> None:
    """`python -m zoo.training.digits NAME...` trains and publishes into the package; `python -m zoo.catalog` lists the tags."""
    for name in names:
        result = train_digits(name)
        publish(name, result, Recipe())
        print(f"{name}: {result.correct} of {result.n}, {result.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
