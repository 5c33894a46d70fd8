"""A model on a labelled set: its answers, and what follows from them. What differs between one class a picture, several, and numbers stands here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.labelled import Example, Task, classes_of
from zoo.data.pictures import large_pictures
from zoo.display.rows import Row
from zoo.errors import InputError, Problem
from zoo.evaluating import figures, numbers, several
from zoo.evaluating.classes import Matching, matching
from zoo.evaluating.corruptions import Corrupting
from zoo.evaluating.figures import Answers, ClassScore, Estimate, per_class, share
from zoo.evaluating.numbers import Guesses, NumberScore, per_number
from zoo.evaluating.sets import LabelledSet, Real
from zoo.evaluating.several import Marks, per_label
from zoo.predicting.predictor import Placed, Predictor
from zoo.predicting.progress import Clock

A = TypeVar("A", bound=Answers | Marks | Guesses)


class Score(Row, frozen=True):
    """One model on one set. `matched`: how the classes of the data were found among the model's; `among`: of how many classes it chose;
    `pictures_per_second`: of the model alone, while it was judged, which is no benchmark. `classes`, or of a model that tells numbers `numbers`: one by one."""

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
    numbers: list[NumberScore] = []


class Judged(ABC, Generic[A]):
    """A model on a set. `paired`: the figure by which two models are compared picture by picture."""

    task: ClassVar[Task]
    paired: ClassVar[str]
    metrics: ClassVar[Mapping[str, Callable[[Any], Estimate]]]

    def __init__(self, predictor: Predictor, data: LabelledSet, classes: str, subset: bool):
        self.predictor, self.data, self.subset = predictor, data, subset
        known = predictor.labels or list(predictor.manifest.labels)
        self.matching: Matching = matching(data.labels, known, predictor.width, predictor.manifest.name, classes)
        self.prepare = Corrupting(predictor.prepare, data.corruption) if data.corruption else predictor.prepare
        self.chosen = torch.tensor(self.matching.indices)
        self.seconds = 0.0

    def answers(self, clock: Clock, unreadable: dict[str, str]) -> A:
        """Raises InputError where no picture can be read."""
        before = self.predictor.seconds
        parts: list[tuple[Tensor, ...]] = []
        placed = (Placed(i, example.picture) for i, example in enumerate(self.data.examples))
        with large_pictures():
            for batch, logits in self.predictor.answers(placed, self.prepare):
                readable = [position for (position, _), error in batch if not error]
                unreadable.update({picture.name: error for (_, picture), error in batch if error})
                if readable:
                    examples = [self.data.examples[position] for position in readable]
                    parts.append((torch.tensor(readable), *self.columns(logits, examples)))
                clock.count(len(batch), self.predictor.manifest.name)
        self.seconds = self.predictor.seconds - before
        if not parts:
            raise InputError("evaluate", Problem(self.data.name, "pictures that can be read", "none"))
        return self.found([torch.cat(column).numpy() for column in zip(*parts, strict=True)])

    def score(self, found: A, metrics: Sequence[str], more: dict[str, Estimate]) -> Score:
        """`metrics`: those of the task where there are none. `more`: figures that are known."""
        manifest = self.predictor.manifest
        return Score(
            model=self.predictor.wish.name,
            weights=manifest.name,
            digest=self.predictor.digest,
            data=self.data.name,
            pictures=len(found.positions),
            unreadable=len(self.data.examples) - len(found.positions),
            matched=self.matching.how,
            among=len(self.matching.indices) if self.subset else self.predictor.width,
            figures={metric: self.metrics[metric](found) for metric in metrics or self.metrics} | more,
            pictures_per_second=len(found.positions) / self.seconds,
            classes=self.classes(found),
            numbers=self.numbers(found),
        )

    @abstractmethod
    def columns(self, logits: Tensor, examples: Sequence[Example]) -> tuple[Tensor, ...]:
        """What is kept of a batch."""

    @abstractmethod
    def found(self, columns: list[np.ndarray]) -> A:
        """Positions and the columns of all batches."""

    def classes(self, found: A) -> list[ClassScore]:
        """Class by class."""
        return []

    def numbers(self, found: A) -> list[NumberScore]:
        """Number by number."""
        return []


class OfOneClass(Judged[Answers]):
    """Each picture has one class, and each answer is one."""

    task = "classification"
    paired = "top1"
    metrics = figures.METRICS

    def columns(self, logits: Tensor, examples: Sequence[Example]) -> tuple[Tensor, ...]:
        truth = torch.tensor([self.matching.indices[example.target] for example in examples])  # type: ignore[index]
        return truth, *self.ranked(logits, truth)

    def ranked(self, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(answers, ranks of the truth, sureness). Of equal logits the first counts as the larger, and what is no number as larger than all."""
        if self.subset:
            outside = torch.ones(logits.shape[-1], dtype=torch.bool)
            outside[self.chosen] = False
            logits = logits.masked_fill(outside, -torch.inf)
        own = logits.gather(1, truth[:, None])
        before = torch.arange(logits.shape[-1]) < truth[:, None]
        ranks = (~(logits <= own)).sum(-1) + ((logits == own) & before).sum(-1)
        sure, answers = logits.softmax(-1).max(-1)
        return answers, ranks, sure.nan_to_num(0.0)

    def found(self, columns: list[np.ndarray]) -> Answers:
        return Answers(*columns)

    def classes(self, found: Answers) -> list[ClassScore]:
        return per_class(found, self.data.labels, self.matching.indices)

    def real(self, found: Answers, real: Real) -> Estimate:
        """The share of answers that are one of the real labels, by number or name, of pictures that have some."""
        hits = []
        for position, answer in zip(found.positions, found.answers, strict=True):
            if right := real.of(self.data.examples[position].picture.name):
                hits.append(int(answer) in right or self.predictor.label(int(answer)) in right)
        if not hits:
            raise InputError("evaluate", Problem("--real", f"labels of pictures of {self.data.name}", "none of them"))
        return share(np.array(hits))


class OfSeveral(Judged[Marks]):
    """Each picture has any number of labels, and each label its own chance. Labels that the data does not have are not judged."""

    task = "multilabel"
    paired = "exact"
    metrics = several.METRICS

    def columns(self, logits: Tensor, examples: Sequence[Example]) -> tuple[Tensor, ...]:
        truth = torch.zeros(len(examples), len(self.data.labels), dtype=torch.bool)
        for row, example in zip(truth, examples, strict=True):
            row[list(classes_of(example.target))] = True
        return truth, logits[:, self.chosen].nan_to_num(-torch.inf)

    def found(self, columns: list[np.ndarray]) -> Marks:
        """Raises InputError where no picture has a label."""
        marks = Marks(*columns)
        if not marks.truth.any():
            raise InputError("evaluate", Problem(self.data.name, "a picture with a label", "none"))
        return marks

    def classes(self, found: Marks) -> list[ClassScore]:
        return per_label(found, self.data.labels)


class OfNumbers(Judged[Guesses]):
    """Each picture has numbers, and each answer is as many."""

    task = "regression"
    paired = "nearer"
    metrics = numbers.METRICS

    def columns(self, logits: Tensor, examples: Sequence[Example]) -> tuple[Tensor, ...]:
        truth = torch.tensor([example.target for example in examples], dtype=torch.float64)
        return truth.view(len(examples), -1), logits[:, self.chosen].double()

    def found(self, columns: list[np.ndarray]) -> Guesses:
        """Raises InputError for answers that are no numbers."""
        guesses = Guesses(*columns)
        if not np.isfinite(guesses.answers).all():
            raise InputError("evaluate", Problem(self.predictor.manifest.name, "finite answers", "nan or infinity"))
        return guesses

    def numbers(self, found: Guesses) -> list[NumberScore]:
        return per_number(found, self.data.labels)


JUDGES: dict[str, type[OfOneClass] | type[OfSeveral] | type[OfNumbers]] = {
    "image-classification": OfOneClass,
    "multilabel-classification": OfSeveral,
    "image-regression": OfNumbers,
}
"""By the task of the model."""
