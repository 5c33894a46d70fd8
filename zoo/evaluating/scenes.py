"""Nets for tasks judged on scenes that code draws and nothing was trained on (`zoo.data.scenes`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.answering.answers import Answering, scale_of, task_of
from zoo.answering.names import (
    DEPTH,
    DETECTION,
    LINES,
    POSE,
    RESTORATION,
    SALIENCE,
    SEGMENTATION,
    SUPER_RESOLUTION,
    VIDEO,
)
from zoo.answering.points import persons
from zoo.catalog.sources import spec
from zoo.data import scenes as drawn
from zoo.data.clips import as_clip
from zoo.data.given import Given, given
from zoo.data.scenes import SCENES
from zoo.data.transforms import Transform, transform
from zoo.display.rows import Row, Table
from zoo.errors import InputError, Problem, listed, nearest
from zoo.evaluating import records
from zoo.evaluating import task_figures as figures
from zoo.evaluating.figures import Estimate
from zoo.evaluating.task_figures import Alike
from zoo.predicting.predictor import Wish, wished
from zoo.predicting.progress import Clock, Told, nobody

COUNT = 200
DELTA = 1.25
LEAST_LINE = 0.01
"""From which score on a line is looked at."""
METRICS = {
    DETECTION: ("map", "ap50"),
    SEGMENTATION: ("miou", "accuracy"),
    SALIENCE: ("iou", "mae"),
    SUPER_RESOLUTION: ("psnr", "ssim", "psnr_before", "psnr_gain"),
    RESTORATION: ("psnr", "ssim", "psnr_before", "psnr_gain"),
    POSE: ("map", "ap50"),
    LINES: ("sap100", "sap10"),
    VIDEO: ("top1",),
    DEPTH: ("delta1", "abs_rel"),
}
"""Of each task, the one that counts first. `map`: average precision, the mean of ten overlaps, of persons of ten likenesses; `ap50` that of
the first; `sap10`: that of lines whose ends are near, `sap100` less near; `top1`: the share of clips whose class is the first answer; `delta1`: the share of pixels
whose distance is less than 1.25 times too large or too small; `abs_rel`: the mean of |d' - d| / d; `psnr_before`: of the picture that the net
was given, for super-resolution enlarged bicubically; `psnr_gain`: the mean over pictures of what the net adds to it."""
DECIBELS = ("psnr", "psnr_before", "psnr_gain")
LESS_IS_BETTER = ("mae", "abs_rel")


class TaskScore(Row, frozen=True):
    """One model on scenes."""

    model: str
    weights: str
    digest: str
    data: str
    pictures: int
    figures: dict[str, Estimate]
    pictures_per_second: float


def judge(net: Any, prepare: Transform, count: int = COUNT) -> dict[str, Estimate]:
    """The figures of a net on the first of the held-out scenes, which are as large as the net takes, or gives, pictures."""
    return _Judging(net, prepare).figures(count, lambda: None)


class _Judging:
    """A net that answers about scenes."""

    def __init__(self, net: Any, prepare: Transform):
        self.task, self.net, self.prepare = task_of(net), net, prepare
        self.scale = scale_of(net) if self.task == SUPER_RESOLUTION else 1
        self.size = self.scale * max(prepare.preprocess.rows_and_columns)
        self.seconds = 0.0

    def figures(self, count: int, told: Callable[[], None]) -> dict[str, Estimate]:
        answering = Answering(self.net.eval(), least=1e-3) if self.task == DETECTION else Answering(self.net.eval())
        facts = list(self._facts(answering, count, told))
        if self.task == DETECTION:
            made = {"map": figures.average_precision(facts), "ap50": figures.average_precision(facts, [0.5])}
        elif self.task == POSE:
            made = {"map": figures.precision_of(facts, figures.THRESHOLDS), "ap50": figures.precision_of(facts, [0.5])}
        elif self.task == LINES:
            made = {name: figures.precision_of(facts, [-figures.SQUARES[name]]) for name in METRICS[LINES]}
        elif self.task == SEGMENTATION:
            made = {"miou": figures.mean_iou(facts), "accuracy": figures.pixel_accuracy(facts)}
        else:
            names = METRICS[self.task]
            columns = zip(*facts, strict=True)
            made = {name: figures.mean_of(column) for name, column in zip(names, columns, strict=True)}
        return {name: figures.estimate(figure, count) for name, figure in made.items()}

    def _facts(self, answering: Answering, count: int, told: Callable[[], None]) -> Iterator[Any]:
        """What the figures ask, of each scene."""
        for number in range(drawn.HELD_OUT, drawn.HELD_OUT + count):
            seen = given(number, self.size, self.task, self.scale)
            placed = self.prepare.place(seen.picture, seen.scene.boxes, mask_for(seen, self.task))
            x = as_clip(self.prepare, seen.wanted, self.net.spec.input) if self.task == VIDEO else placed.x
            start = time.perf_counter()
            with torch.inference_mode():
                answer = {key: tensor[0].cpu() for key, tensor in answering(x[None]).items()}
            self.seconds += time.perf_counter() - start
            yield self._of(answer, seen, placed)
            told()

    def _of(self, answer: dict[str, Tensor], seen: Given, placed: Any) -> Any:
        if self.task == DETECTION:
            counted = answer["scores"] > 0
            kinds = torch.from_numpy(seen.scene.classes)
            boxes, scores, classes = (answer[key][counted] for key in ("boxes", "scores", "classes"))
            return figures.Found(boxes, scores, classes, placed.boxes, kinds)
        if self.task == SEGMENTATION:
            count = self.net.num_classes
            return figures.confusion(answer["classes"], seen_classes(placed.mask, count), count)
        if self.task == SALIENCE:
            wanted, salience = placed.mask > 0, answer["salience"]
            both, either = (salience > 0.5) & wanted, (salience > 0.5) | wanted
            return float(both.sum() / either.sum().clamp(min=1)), float((salience - wanted.float()).abs().mean())
        if self.task == VIDEO:
            return (float(int(answer["chances"].argmax()) == seen.scene.classes[0]),)
        if self.task == DEPTH:
            depth, true = answer["depth"].clamp(min=1e-3), torch.from_numpy(placed.fit.map(seen.wanted).copy())
            near = torch.maximum(depth / true, true / depth) < DELTA
            return float(near.float().mean()), float(((depth - true).abs() / true).mean())
        if self.task in (POSE, LINES):
            return self._alike(answer, placed.fit.points(seen.wanted))
        side = self.size
        wanted = _shares(seen.wanted, self.prepare)[:, :side, :side]
        before = _enlarged(seen.picture, side, self.prepare)
        found = answer["picture"][:, :side, :side]
        found = (found * 255).round() / 255  # as it is written
        after, earlier = figures.psnr(found, wanted), figures.psnr(before, wanted)
        return after, figures.ssim(found, wanted), earlier, after - earlier

    def _alike(self, answer: dict[str, Tensor], true: np.ndarray) -> Alike:
        """Of what was found, how much it is like what there is, in pixels that the net sees."""
        values = {key: tensor.numpy() for key, tensor in answer.items()}
        if self.task == POSE:
            found = persons(values["peaks"])
            return Alike(found[:, :, 2].mean(1), figures.like_persons(found, true))
        counted = values["scores"] > LEAST_LINE
        lines = values["lines"][counted]
        return Alike(values["scores"][counted], figures.like_lines(lines, true, self.size))


def mask_for(seen: Given, task: str) -> np.ndarray | None:
    """The classes of the pixels, for tasks that tell pixels apart: a picture that is to be enlarged is smaller than its scene."""
    return seen.scene.mask if task in (SEGMENTATION, SALIENCE) else None


def seen_classes(mask: Tensor, classes: int) -> Tensor:
    """A mask of scenes for a net that tells fewer classes apart: the others are ground."""
    return torch.where(mask < classes, mask, 0)


def _shares(picture: np.ndarray, prepare: Transform) -> Tensor:
    """(C, H, W) from 0 to 1, of the channels that the net takes, and nothing else done to it."""
    plain = Transform(prepare.preprocess)
    return plain.place(picture).x


def _enlarged(picture: np.ndarray, side: int, prepare: Transform) -> Tensor:
    image = Image.fromarray(picture)
    return _shares(np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)), prepare)[:, :side, :side]


def evaluate_scenes(
    models: Sequence[str], *, metrics: Sequence[str] = (), count: int = COUNT, record: bool = True, progress: Told = nobody, **wish: Any
) -> Table[TaskScore]:  # fmt: skip
    """How good models for one task are on `count` held-out scenes. Raises InputError, and what `zoo.create` raises."""
    if len({METRICS.get(spec(name).family.task) for name in models}) > 1:
        raise InputError("evaluate", Problem("", "models for one task", listed(models)))
    clock, scores = Clock(count * len(models), progress), Table[TaskScore]()
    for name in models:
        scores.append(_scored(wished(name, **wish), metrics, count, clock))
    if record:
        records.keep_all(scores)
    return scores


def _scored(wish: Wish, metrics: Sequence[str], count: int, clock: Clock) -> TaskScore:
    from zoo import factory

    net: Any = factory.create(wish.name, pretrained=True, device=wish.device)
    known = METRICS[task_of(net)]
    for name in metrics:
        if name not in known:
            problem = Problem("--metric", f"one of {listed(list(known))}", f"`{name}`", nearest(name, known))
            raise InputError("evaluate", problem)
    judging = _Judging(net, transform(net))
    found = judging.figures(count, lambda: clock.count(1, net.pretrained.name))
    return TaskScore(
        model=wish.name, weights=net.pretrained.name, digest=net.digest, data=SCENES, pictures=count,
        figures={name: found[name] for name in metrics or known}, pictures_per_second=count / judging.seconds,
    )  # fmt: skip


def score_cells(score: TaskScore) -> list[str]:
    """A row of the table."""
    return [
        score.weights,
        score.data,
        f"{score.pictures:,}",
        *(text(name, value) for name, value in score.figures.items()),
    ]


def text(name: str, figure: Estimate) -> str:
    """`31.20 dB (31.02 to 31.39)`, `83.1 % (82.8 to 83.5)`."""
    if name in DECIBELS:
        return f"{figure.value:.2f} dB ({figure.low:.2f} to {figure.high:.2f})"
    return f"{100 * figure.value:.1f} % ({100 * figure.low:.1f} to {100 * figure.high:.1f})"
