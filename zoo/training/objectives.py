"""What a training minimises: the loss of a task, and the distance to a teacher.

Each is a mean over the pictures of a part of a batch, so that a batch in several parts and processes has the mean of them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from zoo.data.labelled import Task
from zoo.training.recipe import Distill, Loss

Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Student(nn.Module):
    """The net, and a linear map from its pooled features to those of a teacher of another width. (logits, features or None)."""

    def __init__(self, net: Any, teacher_dim: int = 0):
        super().__init__()
        self.net = net
        self.projection = nn.Linear(net.head_hidden_size, teacher_dim) if teacher_dim else None

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor | None]:
        if self.projection is None:
            return self.net(x, ctx), None
        y = self.net.forward_features(x, ctx)
        return self.net.forward_head(y, ctx=ctx), self.projection(self.net.forward_head(y, pre_logits=True, ctx=ctx))


class Objective:
    """The loss of (model, (x, targets), ctx), as `loop.train` calls it.

    classification: cross-entropy, of classes or of shares that `mixer` makes; multilabel: binary cross-entropy, summed over
    nothing, averaged over labels; regression: the squared error of standardised numbers. With a teacher
    (1 - weight) * loss + weight * T^2 KL(teacher / T || student / T), or the squared error of its numbers, and
    features * (1 - cosine) of the pooled features. Blocks whose losses need the classes of the pictures read them in the slot `classes` of ctx.
    """

    def __init__(
        self, task: Task, loss: Loss, weights: Sequence[float] | None = None, mixer: Mixer | None = None,
        teacher: Any = None, distill: Distill = Distill(),
    ):  # fmt: skip
        self.task, self.loss, self.mixer, self.teacher, self.distill = task, loss, mixer, teacher, distill
        self.weights = None if weights is None else torch.tensor(weights)

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor], ctx: Context) -> Tensor:
        x, targets = batch
        if self.mixer is not None:
            x, targets = self.mixer(x, targets)
        if not targets.is_floating_point() and targets.ndim == 1:
            ctx.write("classes", "", targets)
        logits, features = model(x, ctx)
        total = self.of(logits, targets)
        return total if self.teacher is None else self._taught(total, logits, features, x)

    def of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of the task alone."""
        smoothing, weights = self.loss.label_smoothing, self.weights
        weights = weights if weights is None else weights.to(logits)
        if self.task == "regression":
            return F.mse_loss(logits, targets)
        if self.task == "multilabel":
            targets = targets * (1 - smoothing) + 0.5 * smoothing
            return F.binary_cross_entropy_with_logits(logits, targets, weight=weights)
        if targets.ndim == 2:  # shares, already smooth
            return F.cross_entropy(logits, targets, weight=weights)
        return F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing, reduction="none").mean()

    def _taught(self, total: Tensor, logits: Tensor, features: Tensor | None, x: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = self.teacher.forward_features(x)
            answer = self.teacher.forward_head(theirs)
            pooled = self.teacher.forward_head(theirs, pre_logits=True) if features is not None else None
        total = (1 - self.distill.weight) * total + self.distill.weight * self._distance(logits, answer)
        if features is not None and pooled is not None:
            total = total + self.distill.features * (1 - F.cosine_similarity(features, pooled, dim=-1)).mean()
        return total

    def _distance(self, logits: Tensor, answer: Tensor) -> Tensor:
        if self.task == "regression":
            return F.mse_loss(logits, answer)
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(logits, answer.sigmoid())
        t = self.distill.temperature
        return t**2 * F.kl_div(
            (logits / t).log_softmax(-1), (answer / t).log_softmax(-1), reduction="batchmean", log_target=True
        )


def class_weights(counts: Sequence[int], task: Task) -> list[float]:
    """1 / count of each class, scaled so that a picture has 1 in the mean; of several classes a picture, that labels have 1."""
    inverse = [1.0 / max(1, count) for count in counts]
    scale = sum(counts) / max(1e-12, sum(w * n for w, n in zip(inverse, counts, strict=True)))
    if task == "multilabel":
        scale = len(counts) / sum(inverse)
    return [w * scale for w in inverse]
