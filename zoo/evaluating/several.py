"""Figures of a model that tells several labels of a picture at once, with their 95 % intervals.

A label is answered where its logit is above 0, its chance above a half. Shares have Wilson's interval, all else one of the bootstrap over
pictures. Only labels that occur in the data are judged: of others there is nothing to be found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zoo.evaluating.figures import ClassScore, Estimate, bootstrapped, share
from zoo.weights.stats import wilson_interval


class Marks(NamedTuple):
    """Of the pictures that could be read where they stand in the data (N,); for the labels of the data which of them are true and their
    logits, (N, K) each."""

    positions: np.ndarray
    truth: np.ndarray
    logits: np.ndarray

    @property
    def answers(self) -> np.ndarray:
        return self.logits > 0

    @property
    def right(self) -> np.ndarray:
        """Pictures of which every label is right."""
        return (self.truth == self.answers).all(1)

    @property
    def occurring(self) -> Marks:
        """The labels that some picture has."""
        known = self.truth.any(0)
        return Marks(self.positions, self.truth[:, known], self.logits[:, known])


def mean_average_precision(marks: Marks) -> Estimate:
    """The mean over labels of their average precision. A draw of the bootstrap leaves out the labels that it has no picture of."""
    truth, logits = marks.occurring[1:]

    def figure(weights: np.ndarray) -> np.ndarray:
        columns = zip(truth.T, logits.T, strict=True)
        precisions = np.stack([average_precision(true, values, weights) for true, values in columns])
        known = ~np.isnan(precisions)
        return precisions.sum(0, where=known) / np.maximum(known.sum(0), 1)

    return bootstrapped(len(truth), figure)


def average_precision(truth: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_k (R_k - R_{k-1}) P_k, of recall and precision of the pictures down to the k-th largest logit; equal ones come at once.

    truth, logits (N,), and how often each picture counts, (draws, N) -> (draws,); nan where no picture that counts has the label."""
    order = np.argsort(-logits, kind="stable")
    falling, weights = logits[order], weights[:, order]
    ends = np.append(falling[1:] != falling[:-1], True)
    hits = (weights * truth[order]).cumsum(1)[:, ends]
    seen = weights.cumsum(1)[:, ends]
    gained = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        return (gained * hits / np.maximum(seen, 1)).sum(1) / hits[:, -1]  # type: ignore[no-any-return]


def macro_f1(marks: Marks) -> Estimate:
    """The mean over labels of 2 TP / (pictures with it + answers of it)."""
    return _f1(marks.occurring, lambda both, sums: (2 * both / np.maximum(sums, 1)).mean(-1))


def micro_f1(marks: Marks) -> Estimate:
    """2 TP / (labels + answers), each summed over all labels."""
    return _f1(marks.occurring, lambda both, sums: 2 * both.sum(-1) / np.maximum(sums.sum(-1), 1))


def exact(marks: Marks) -> Estimate:
    """The share of pictures of which every label is right."""
    return share(marks.right)


METRICS: dict[str, Callable[[Marks], Estimate]] = {
    "mAP": mean_average_precision,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "exact": exact,
}
"""All are shares in [0, 1]; more is better."""


def per_label(marks: Marks, labels: Sequence[str]) -> list[ClassScore]:
    """The labels of the data, in its order, with their average precision; of one that does not occur all is 0."""
    once = np.ones((1, len(marks.truth)))
    rows = []
    for label, true, logits, answered in zip(labels, marks.truth.T, marks.logits.T, marks.answers.T, strict=True):
        both, n, said = int((true & answered).sum()), int(true.sum()), int(answered.sum())
        low, high = wilson_interval(both, n) if n else (0.0, 1.0)
        precision = float(average_precision(true, logits, once)[0]) if n else 0.0
        rows.append(
            ClassScore(
                label, n, both / max(n, 1), low, high, both / max(said, 1), 2 * both / max(n + said, 1), precision
            )
        )
    return rows


def _f1(marks: Marks, mean: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Estimate:
    """`mean` of the counts (draws, K) of right answers, and of labels and answers together."""
    both = (marks.truth & marks.answers).astype(np.float64)
    sums = marks.truth.astype(np.float64) + marks.answers
    return bootstrapped(len(both), lambda weights: mean(weights @ both, weights @ sums))
