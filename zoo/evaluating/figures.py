"""Figures of a classifier with their 95 % intervals, of three facts for each picture: its answer, how sure it was, the rank of the truth.

Those of models that tell several labels of a picture are in `several`. Shares have Wilson's interval. Macro F1 and the calibration error
have one of the bootstrap: the 2.5 % and 97.5 % points of `DRAWS` sets of as many pictures, drawn from these. The draws have a seed, so that
the same answers give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from zoo.display.rows import Row
from zoo.errors import InputError, Problem, listed, nearest
from zoo.weights.stats import wilson_interval

DRAWS = 1000
SEED = 0
DRAWN_AT_ONCE = 50
BINS = 15
"""Of the calibration error: as Guo and others (arXiv:1706.04599) take them."""


class Answers(NamedTuple):
    """(N,) each, of the pictures that could be read. `positions`: where they stand in the data; `truth` and `answers`: classes of the
    model; `ranks`: of the truth among all classes, 0 for a right answer; `sure`: the softmax of the answer."""

    positions: np.ndarray
    truth: np.ndarray
    answers: np.ndarray
    ranks: np.ndarray
    sure: np.ndarray

    @property
    def right(self) -> np.ndarray:
        return self.ranks == 0


class Estimate(Row, frozen=True):
    """A figure, and its 95 % interval; with `n` pictures, of which `correct` count where it is a share."""

    value: float
    low: float
    high: float
    n: int
    correct: int | None = None


class ClassScore(Row, frozen=True):
    """One class: of its `pictures` a share is `recall`ed, with an interval; of the answers with its name a share is right (`precision`).
    `average_precision`: of a label among several."""

    label: str
    pictures: int
    recall: float
    low: float
    high: float
    precision: float
    f1: float
    average_precision: float | None = None


def share(hits: np.ndarray) -> Estimate:
    correct, n = int(hits.sum()), len(hits)
    return Estimate(correct / n, *wilson_interval(correct, n), n, correct)


def top(count: int) -> Callable[[Answers], Estimate]:
    return lambda answers: share(answers.ranks < count)


def macro_f1(answers: Answers) -> Estimate:
    """The mean over the classes of the data of 2 TP / (pictures + answers). What is drawn are cells of the confusion matrix, which say all
    that F1 asks."""
    cells, counts = np.unique(np.stack([answers.truth, answers.answers]), axis=1, return_counts=True)
    true, answered = (cells[:, :, None] == np.unique(answers.truth)).astype(np.float64)

    def f1(weights: np.ndarray) -> np.ndarray:
        """(draws, cells) -> (draws,)."""
        both = weights @ true + weights @ answered
        return (2 * weights @ (true * answered) / np.maximum(both, 1)).mean(-1)

    n = len(answers.truth)
    draws = np.random.default_rng(SEED).multinomial(n, counts / n, DRAWS)
    return Estimate(float(f1(counts)), *_middle(f1(draws)), n)


def calibration_error(answers: Answers) -> Estimate:
    """sum over bins of |share of right answers - mean sureness| x share of pictures; the bins divide sureness evenly."""
    bins = np.minimum((answers.sure * BINS).astype(int), BINS - 1)
    gaps = answers.right - answers.sure.astype(np.float64)
    of_bin = np.eye(BINS)[bins] * gaps[:, None]
    return bootstrapped(len(gaps), lambda weights: np.abs(weights @ of_bin).sum(-1) / len(gaps))


def bootstrapped(n: int, figure: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """A figure of `n` pictures; `figure`: how often each counts, (draws, n) -> (draws,)."""
    draw = np.random.default_rng(SEED)
    drawn = []
    for _ in range(DRAWS // DRAWN_AT_ONCE):
        weights = [np.bincount(draw.integers(0, n, n), minlength=n) for _ in range(DRAWN_AT_ONCE)]
        drawn.append(figure(np.stack(weights).astype(np.float64)))
    return Estimate(float(figure(np.ones((1, n)))[0]), *_middle(np.concatenate(drawn)), n)


def _middle(drawn: Sequence[float] | np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


METRICS: dict[str, Callable[[Answers], Estimate]] = {
    "top1": top(1),
    "top5": top(5),
    "macro_f1": macro_f1,
    "calibration_error": calibration_error,
}
"""All are shares in [0, 1]. Of the calibration error less is better."""


def check_metrics(names: Sequence[str], known: Collection[str]) -> None:
    """Raises InputError for a name that is none."""
    wrong = [name for name in names if name not in known]
    if wrong:
        expected = f"one of {listed(list(known))}"
        raise InputError(
            "evaluate", [Problem("--metric", expected, f"`{name}`", nearest(name, known)) for name in wrong]
        )


def per_class(answers: Answers, labels: Sequence[str], indices: Sequence[int]) -> list[ClassScore]:
    """The classes of the data, in its order; `indices` are theirs among those of the model."""
    scores = _sklearn().precision_recall_fscore_support(
        answers.truth, answers.answers, labels=list(indices), zero_division=0.0
    )
    rows = []
    for label, precision, recall, f1, support in zip(labels, *scores, strict=True):
        low, high = wilson_interval(round(recall * support), int(support)) if support else (0.0, 1.0)
        rows.append(ClassScore(label, int(support), float(recall), low, high, float(precision), float(f1)))
    return rows


def _sklearn() -> Any:
    """Raises InputError where scikit-learn is not installed."""
    try:
        import sklearn.metrics
    except ImportError:
        problem = Problem("", "scikit-learn, for F1", "no such package", next='pip install "blockzoo[train]"')
        raise InputError("evaluate", problem) from None
    return sklearn.metrics
