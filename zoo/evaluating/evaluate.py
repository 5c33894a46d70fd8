"""`zoo evaluate`: models on labelled pictures of the user's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data.labelled import Example
from zoo.display.rows import Row, Table
from zoo.errors import InputError, Problem
from zoo.evaluating import records
from zoo.evaluating.classes import Matching, matching
from zoo.evaluating.corruptions import Corrupting, corruptions
from zoo.evaluating.figures import METRICS, Answers, ClassScore, Estimate, check_metrics, per_class, share
from zoo.evaluating.paired import Pair, paired
from zoo.evaluating.sets import LabelledSet, Real, real_labels, sets_of
from zoo.predicting.predictor import Placed, Predictor, Wish, wished
from zoo.predicting.progress import Clock, Told, nobody
from zoo.predicting.run import large_pictures

REAL = "real_top1"


class Score(Row, frozen=True):
    """One model on one set. `matched`: how the classes of the data were found among the model's; `among`: of how many classes it chose;
    `pictures_per_second`: of the model alone, while it was judged, which is no benchmark."""

    model: str
    weights: str
    digest: str
    data: str
    pictures: int
    unreadable: int
    matched: str
    among: int
    figures: dict[str, Estimate]
    pictures_per_second: float
    classes: list[ClassScore]


class Evaluation(NamedTuple):
    """The scores; each model against the first on the same pictures; and the pictures that nobody could read, with the reasons."""

    scores: Table[Score]
    pairs: Table[Pair]
    unreadable: dict[str, str]


def evaluate(
    models: str | Sequence[str],
    data: str | os.PathLike[str],
    *,
    metrics: Sequence[str] = tuple(METRICS),
    split: str = "",
    target: str = "",
    classes: str = "",
    subset: bool = False,
    real: str | os.PathLike[str] = "",
    corrupt: str = "",
    name: str = "",
    record: bool = True,
    strict: bool = False,
    progress: Told = nobody,
    **wish: Any,
) -> Evaluation:
    """How good models are on labelled pictures, with 95 % intervals, and which of them is better.

    data: what `zoo train --data` takes: folders that are called like classes, tables, shards; or DIR/CORRUPTION/SEVERITY/CLASS.
    metrics: of `top1`, `top5`, `macro_f1`, `calibration_error`.
    split: the part that judges; without it `val`, else `test`, else what there is. target: the column of the classes in a table.
    classes: how the folders are classes of the model: `name`, `wordnet` id, `number` or `order`; without it the first that fits.
    subset: models choose among the classes of the data only, as they are judged on ImageNet-A and -R.
    real: a JSON file with all classes that are right for each picture.
    corrupt: `fog@3,snow`, or `all` fifteen corruptions of ImageNet-C, each a set of its own beside the pictures as they are.
    name: of the data set, for `zoo find --metric NAME/top1`; without it that of the folder. `record`: whether `zoo find` shall know.
    strict: refuse pictures that cannot be read, rather than leave them out.
    batch (32), workers, deploy, device: as of `zoo predict`.

    Raises InputError, and what `zoo.create` raises.
    """
    check_metrics(metrics)
    names = [models] if isinstance(models, str) else list(dict.fromkeys(models))
    called = name or records.slug(data)
    records.check_name(called)
    truths = real_labels(real) if real else None
    sets = sets_of(data, called, split, target, corruptions(corrupt))
    clock = Clock(len(names) * sum(len(each.examples) for each in sets), progress)
    scores: Table[Score] = Table()
    known: dict[str, list[Answers]] = {each.name: [] for each in sets}
    unreadable: dict[str, str] = {}
    for model in names:
        predictor = _classifier(wished(model, **wish))
        for each in sets:
            judged = _Judged(predictor, each, classes, subset)
            answers = judged.answers(clock, unreadable)
            if strict and unreadable:
                problems = [Problem(picture, found=reason) for picture, reason in unreadable.items()]
                raise InputError("evaluate", problems)
            known[each.name].append(answers)
            scores.append(judged.score(answers, metrics, truths))
    if record:
        for score in scores:
            records.keep(score.model, score.weights, score.digest, score.data, score.figures)
    comparisons = len(sets) * (len(names) - 1)
    pairs = Table(
        paired((other, names[0]), each.name, known[each.name][place], known[each.name][0], comparisons)
        for each in sets
        for place, other in enumerate(names[1:], 1)
    )
    return Evaluation(scores, pairs, unreadable)


def _classifier(wish: Wish) -> Predictor:
    """Raises InputError for a model that answers something else than one class."""
    predictor = Predictor(wish)
    if predictor.task != "image-classification":
        found = f"one that was trained for {predictor.task}"
        raise InputError("evaluate", Problem(wish.name, "a model that answers one class", found))
    return predictor


class _Judged:
    """A model on a set."""

    def __init__(self, predictor: Predictor, data: LabelledSet, classes: str, subset: bool):
        self.predictor, self.data = predictor, data
        self.width = predictor.width
        self.matching: Matching = matching(data.labels, predictor.labels, self.width, predictor.manifest.name, classes)
        self.prepare = Corrupting(predictor.prepare, data.corruption) if data.corruption else predictor.prepare
        self.chosen = torch.tensor(self.matching.indices) if subset else None
        self.seconds = 0.0

    def answers(self, clock: Clock, unreadable: dict[str, str]) -> Answers:
        """Raises InputError where no picture can be read."""
        before, parts = self.predictor.seconds, []
        placed = (Placed(i, example.picture) for i, example in enumerate(self.data.examples))
        with large_pictures():
            for batch, logits in self.predictor.answers(placed, self.prepare):
                readable = [position for (position, _), error in batch if not error]
                unreadable.update({picture.name: error for (_, picture), error in batch if error})
                truth = torch.tensor([self._truth(self.data.examples[position]) for position in readable])
                if readable:
                    parts.append((torch.tensor(readable), truth, *self._judged(logits, truth)))
                clock.count(len(batch), self.predictor.manifest.name)
        self.seconds = self.predictor.seconds - before
        if not parts:
            raise InputError("evaluate", Problem(self.data.name, "pictures that can be read", "none"))
        return Answers(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))

    def _truth(self, example: Example) -> int:
        return self.matching.indices[example.target]  # type: ignore[index]  # sets have one class for each picture

    def _judged(self, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(answers, ranks of the truth, sureness). Of equal logits the first counts as the larger, and what is no number as larger than all."""
        if self.chosen is not None:
            outside = torch.ones(logits.shape[-1], dtype=torch.bool)
            outside[self.chosen] = False
            logits = logits.masked_fill(outside, -torch.inf)
        own = logits.gather(1, truth[:, None])
        before = torch.arange(logits.shape[-1]) < truth[:, None]
        ranks = (~(logits <= own)).sum(-1) + ((logits == own) & before).sum(-1)
        sure, answers = logits.softmax(-1).max(-1)
        return answers, ranks, sure.nan_to_num(0.0)

    def score(self, found: Answers, metrics: Sequence[str], real: Real | None) -> Score:
        manifest = self.predictor.manifest
        figures = {metric: METRICS[metric](found) for metric in metrics}
        if real is not None:
            figures[REAL] = self._real(found, real)
        return Score(
            model=self.predictor.wish.name,
            weights=manifest.name,
            digest=self.predictor.digest,
            data=self.data.name,
            pictures=len(found.truth),
            unreadable=len(self.data.examples) - len(found.truth),
            matched=self.matching.how,
            among=len(self.matching.indices) if self.chosen is not None else self.width,
            figures=figures,
            pictures_per_second=len(found.truth) / self.seconds,
            classes=per_class(found, self.data.labels, self.matching.indices),
        )

    def _real(self, found: Answers, real: Real) -> Estimate:
        """The share of answers that are one of the real labels, by number or name, of pictures that have some."""
        hits = []
        for position, answer in zip(found.positions, found.answers, strict=True):
            if right := real.of(self.data.examples[position].picture.name):
                hits.append(int(answer) in right or self.predictor.label(int(answer)) in right)
        if not hits:
            raise InputError("evaluate", Problem("--real", f"labels of pictures of {self.data.name}", "none of them"))
        return share(np.array(hits))
