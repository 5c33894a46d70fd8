"""How good a model is on pictures that it was not trained on: all its answers, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.data.labelled import Task
from zoo.evaluating import numbers, several
from zoo.training.batches import Pictures, Share
from zoo.training.objectives import Objective
from zoo.weights.stats import wilson_interval

Batches = DataLoader[tuple[Tensor, Tensor]]

FIGURES = {"classification": "top1", "multilabel": "mAP", "regression": "r2"}
"""The figure by which the best epoch of a task is known; more is better."""


class Judgement(NamedTuple):
    """The answers (N, labels) and targets of all pictures, in their order, on the CPU, and the loss."""

    task: Task
    answers: Tensor
    targets: Tensor
    loss: float

    @property
    def name(self) -> str:
        return FIGURES[self.task]

    @property
    def figure(self) -> float:
        """Share of right classes; mean average precision over labels; 1 - squared error over variance, averaged over numbers."""
        if self.task == "classification":
            return self.correct / len(self.targets)
        if self.task == "multilabel":
            return mean_average_precision(self.answers, self.targets)
        spread = (self.targets - self.targets.mean(0)).square().sum(0).clamp_min(1e-12)
        return float((1 - (self.answers - self.targets).square().sum(0) / spread).mean())

    @property
    def correct(self) -> int:
        """Pictures whose class is right."""
        return int((self.answers.argmax(-1) == self.targets).sum())

    @property
    def interval(self) -> tuple[float, float] | None:
        """At 95 %: Wilson's of the share of right classes, that of the bootstrap of all else; none where no picture has a label."""
        if self.task == "classification":
            return wilson_interval(self.correct, len(self.targets))
        if self.task == "regression":
            of_numbers = numbers.r2(numbers.Guesses(np.arange(len(self.targets)), *self._columns))
            return of_numbers.low, of_numbers.high
        if not self.targets.any():
            return None
        found = several.mean_average_precision(
            several.Marks(np.arange(len(self.targets)), self.targets.numpy() > 0, self.answers.numpy())
        )
        return found.low, found.high

    @property
    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        return self.targets.double().numpy(), self.answers.double().numpy()

    def confusion(self) -> np.ndarray:
        """(classes, classes): of the pictures of class i, how many were taken for class j."""
        count = self.answers.shape[-1]
        pairs = (self.targets * count + self.answers.argmax(-1)).numpy()
        return np.bincount(pairs, minlength=count * count).reshape(count, count)

    def regrets(self) -> Tensor:
        """Of each picture how wrong its answer is: minus the logarithm of what its truth was given, or the squared error."""
        if self.task == "classification":
            return torch.nn.functional.cross_entropy(self.answers, self.targets, reduction="none")
        if self.task == "multilabel":
            losses = torch.nn.functional.binary_cross_entropy_with_logits(self.answers, self.targets, reduction="none")
            return losses.mean(-1)
        return (self.answers - self.targets).square().mean(-1)


@torch.no_grad()
def judge(model: nn.Module, pictures: Batches, objective: Objective, device: Any = "cpu") -> Judgement:
    """The model in evaluation mode, which it keeps, on the pictures of `in_turn`."""
    model.eval()
    answers = [model(x.to(device)).float().cpu() for x, _ in pictures]
    return _judgement(torch.cat(answers), pictures, objective)


@torch.no_grad()
def judge_together(
    answer: Callable[[Tensor], Tensor], pictures: Batches, objective: Objective, share: Share, device: Any = "cpu"
) -> Judgement | None:
    """The same by several processes, each on its `rows_of` the pictures; None but in the first.

    `answer` is called equally often in each of them, since its parameters may lie in all."""
    answers = [answer(x.to(device)).float().cpu() for x, _ in pictures]
    parts: list[Any] | None = [None] * share.processes if share.rank == 0 else None
    torch.distributed.gather_object(answers, parts)
    if parts is None:
        return None
    whole = torch.cat([part for turn in zip(*parts, strict=True) for part in turn])
    return _judgement(whole[: len(_held(pictures))], pictures, objective)


def rows_of(count: int, batch_size: int, share: Share) -> list[range]:
    """The batches of one of several processes, which has every so manyth; who has one less looks at the first picture once more, last of all."""
    rows = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    idle = -len(rows) % share.processes
    return [*rows, *[range(1)] * idle][share.rank :: share.processes]


def _judgement(answers: Tensor, pictures: Batches, objective: Objective) -> Judgement:
    targets = _held(pictures).targets
    return Judgement(objective.task, answers, targets, float(objective.of(answers, targets)))


def _held(pictures: Batches) -> Pictures:
    return pictures.dataset  # type: ignore[return-value]


def mean_average_precision(answers: Tensor, targets: Tensor) -> float:
    """The mean over labels that occur of sum_k (R_k - R_{k-1}) P_k, precision and recall of the k most likely pictures."""
    from sklearn.metrics import average_precision_score

    known = targets.sum(0) > 0
    if not known.any():
        return 0.0
    scores = [
        average_precision_score(targets[:, i].numpy(), answers[:, i].numpy())
        for i in known.nonzero().flatten().tolist()
    ]
    return float(np.mean(scores))
