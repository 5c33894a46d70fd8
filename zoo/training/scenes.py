"""Training small nets for tasks on scenes that code draws: one recipe, reproducible from its seed; and how its result is published."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn

from blocks.heads.class_map import ClassMap
from zoo.answering.answers import scale_of, task_of
from zoo.answering.names import DEPTH, DETECTION, LINES, PICTURES, POSE, SEGMENTATION, SUPER_RESOLUTION, VIDEO
from zoo.artifacts.record import WEIGHTS
from zoo.build.groups import param_groups
from zoo.build.inputs import meta_input
from zoo.data.clips import as_clip
from zoo.data.given import given
from zoo.data.moves import CHANGES
from zoo.data.persons import JOINTS, MIRRORED
from zoo.data.scenes import SCENES, THINGS
from zoo.data.transforms import FITS, Seen, Transform
from zoo.errors import InputError, Problem
from zoo.evaluating.figures import Estimate
from zoo.evaluating.scenes import DECIBELS, judge, mask_for, seen_classes
from zoo.training.embedded import command_of, embed
from zoo.training.loop import Progress, RunningAverage, train
from zoo.training.task_losses import Truth, task_loss
from zoo.weights.manifest import Manifest, Metric, Preprocess

LEAST_SIZE, PATCH, SMALL_PATCH = 64, 48, 32
"""Pixels to a side of what a net is given: to tell what there is at least; to restore; to enlarge."""
ONES = 1 / 255
"""The plane of ones that a net for lines sees beside the 256 levels of the colours."""
FIRST_CHANCE = 0.01
"""That something is at a place, before a detector has learned anything."""
GROUND = "background"
TOLD_EVERY = 50


class SceneRecipe(msgspec.Struct, frozen=True):
    """AdamW with warm-up and a cosine to zero on so many scenes, mirrored every second time; decay only of matrices."""

    scenes: int = 512
    steps: int = 800
    batch_size: int = 8
    lr: float = 3e-3
    weight_decay: float = 0.02
    warmup: float = 0.05
    ema_decay: float = 0.99
    seed: int = 0


class SceneResult(NamedTuple):
    """A trained net, how it is given pictures, and its figures on held-out scenes."""

    model: nn.Module
    preprocess: Preprocess
    figures: dict[str, Estimate]
    seconds: float


def train_scenes(name: str, recipe: SceneRecipe = SceneRecipe(), progress: Progress | None = None) -> SceneResult:
    """Trains the model `name` from scratch for its task; the same seed gives the same weights on one machine.

    Raises InputError for a model of a task that scenes cannot teach."""
    from zoo.factory import create

    torch.manual_seed(recipe.seed)
    return fit_scenes(create(name), recipe, progress)


def fit_scenes(net: Any, recipe: SceneRecipe, progress: Progress | None = None) -> SceneResult:
    """Trains in place; returns the running average, which is what generalises."""
    start = time.perf_counter()
    if task_of(net) == DETECTION:
        _expect_little(net)
    preprocess = preprocess_for(net)
    optimizer = torch.optim.AdamW(param_groups(net, recipe.weight_decay, lr=recipe.lr), lr=recipe.lr)
    average, losses = RunningAverage(net, recipe.ema_decay), []
    steps = train(
        net,
        optimizer,
        batches(net, preprocess, recipe),
        task_loss(net),
        steps=recipe.steps,
        warmup=recipe.warmup,
        average=average,
    )
    for step, loss in enumerate(steps, 1):
        losses.append(loss)
        if progress is not None and (step % TOLD_EVERY == 0 or step == recipe.steps):
            progress(step, recipe.steps, sum(losses) / len(losses))
            losses = []
    figures = judge(average.model, Transform(preprocess))
    return SceneResult(average.model, preprocess, figures, time.perf_counter() - start)


def preprocess_for(net: Any) -> Preprocess:
    """How a net is given scenes: as they are, about -2 to 2; pictures to pictures from 0 to 1."""
    task, spec = task_of(net), net.spec.input
    fit: Any = FITS.get(task, "stretch")
    if task == VIDEO:  # few pixels and many frames
        sides = [spec.size] if isinstance(spec.size, int) else list(spec.size)
        return Preprocess(
            size=max(sides),
            mean=(0.5,) * spec.channels,
            std=(0.25,) * spec.channels,
            channels=spec.channels,
            fit="stretch",
        )
    if task in PICTURES:
        side = SMALL_PATCH if task == SUPER_RESOLUTION else PATCH
        return Preprocess(
            size=side, mean=(0.0,) * spec.channels, std=(1.0,) * spec.channels, channels=spec.channels, fit=fit
        )
    sides = [spec.size] if isinstance(spec.size, int) else list(spec.size)
    mean, std = (0.5,) * spec.channels, (0.25,) * spec.channels
    planes = (ONES,) if task == LINES and spec.channels == 4 else ()
    return Preprocess(
        size=max(LEAST_SIZE, *sides), mean=mean, std=std, channels=spec.channels, interpolation="bilinear", fit=fit, planes=planes
    )  # fmt: skip


def batches(net: Any, preprocess: Preprocess, recipe: SceneRecipe) -> Iterator[tuple[torch.Tensor, Truth]]:
    """(pictures, what is known of them) of every step; scenes are numbered on from the seed."""
    task, draw = task_of(net), torch.Generator().manual_seed(recipe.seed)
    prepare = Transform(preprocess, train=task not in (*PICTURES, VIDEO), generator=draw)
    scale = scale_of(net) if task == SUPER_RESOLUTION else 1
    size, first = scale * preprocess.rows_and_columns[0], recipe.seed * recipe.scenes
    pool = [given(first + number, size, task, scale) for number in range(recipe.scenes)]
    for _ in range(recipe.steps):
        shown = [pool[place] for place in torch.randint(len(pool), (recipe.batch_size,), generator=draw)]
        if task == VIDEO:
            clips = torch.stack([as_clip(prepare, each.wanted, net.spec.input) for each in shown])
            yield clips, Truth(classes=[torch.from_numpy(each.scene.classes) for each in shown])
            continue
        placed = [prepare.place(each.picture, each.scene.boxes, mask_for(each, task)) for each in shown]
        x = torch.stack([each.x for each in placed])
        if task == DETECTION:
            kinds = [torch.from_numpy(each.scene.classes) for each in shown]
            yield x, Truth(boxes=[each.boxes for each in placed], classes=kinds)  # type: ignore[misc]
        elif task in PICTURES:
            yield x, Truth(pictures=torch.stack([prepare.place(each.wanted).x for each in shown]))
        elif task in (POSE, LINES):
            yield x, Truth(points=[_moved(each.wanted, own, task) for each, own in zip(shown, placed, strict=True)])
        elif task == DEPTH:
            depth = [torch.from_numpy(own.fit.map(each.wanted).copy()) for each, own in zip(shown, placed, strict=True)]
            yield x, Truth(depth=torch.stack(depth))
        else:
            mask = torch.stack([each.mask for each in placed])  # type: ignore[misc]
            yield x, Truth(mask=seen_classes(mask, net.num_classes) if task == SEGMENTATION else mask)


def _moved(points: np.ndarray, seen: Seen, task: str) -> torch.Tensor:
    """Joints or ends of lines where the net sees them; in a mirror left joints are right ones."""
    moved = seen.fit.points(points)
    return torch.from_numpy(moved[:, MIRRORED] if task == POSE and seen.fit.mirrored else moved)


def _expect_little(net: Any) -> None:
    """A detector begins with the answer that there is nothing anywhere (arXiv:1708.02002, section 3.3). Raises InputError for one of too
    few classes."""
    if net.num_classes < len(THINGS):
        found = f"{net.num_classes}"
        raise InputError(net.spec.name, Problem("num_classes", f"at least {len(THINGS)}, the things in scenes", found))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, ClassMap) and module.bias is not None:
                module.bias.fill_(-math.log((1 - FIRST_CHANCE) / FIRST_CHANCE))


def labels_of(net: Any) -> tuple[str, ...]:
    """The names of a net's classes, where scenes name as many."""
    names = {DETECTION: THINGS, POSE: JOINTS, VIDEO: CHANGES, SEGMENTATION: (GROUND, *THINGS)[: net.num_classes]}.get(
        task_of(net), ()
    )
    return names if len(names) == net.num_classes else ()


def manifest_of(name: str, result: SceneResult, recipe: SceneRecipe) -> Manifest:
    """What is known of trained weights, wherever they will stand."""
    command = command_of("scenes", name, recipe, ("steps", "seed"))
    side, today = result.preprocess.rows_and_columns[0], str(datetime.date.today())
    return Manifest(
        model=name, tag=SCENES, digest=result.model.digest, source=f"file:{WEIGHTS}", state="saved", licence="Apache-2.0",  # type: ignore[arg-type]
        licence_class="permissive", origin="trained from scratch on generated scenes", preprocess=result.preprocess,
        labels=labels_of(result.model) or "", recipe=command,
        metrics={
            f"{SCENES}/{figure}@{side}": Metric(
                value=round(each.value, digits := 2 if figure in DECIBELS else 4), n=each.n, command=command, seed=recipe.seed, date=today,
                ci95=(round(each.low, digits), round(each.high, digits)),
            )
            for figure, each in result.figures.items()
        },
    )  # fmt: skip


def publish_scenes(name: str, result: SceneResult, recipe: SceneRecipe) -> Manifest:
    """Writes the weights and their manifest into the package that has the model: NAME.scenes.safetensors and .json."""
    shape = (*meta_input(result.model.spec).shape[:-2], *result.preprocess.rows_and_columns)  # type: ignore[arg-type]
    origin = "trained from scratch on generated scenes; smoke weights: proof that the net learns its task, no ranking"
    return embed(result.model, manifest_of(name, result, recipe), shape, origin)
