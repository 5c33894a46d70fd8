"""Figures of nets for tasks with their 95 % intervals: average precision, mean IoU, and how near a picture is to the one it should be.

Each figure is a function of how often each picture counts, so that the bootstrap draws pictures: the interval is from the 2.5 % to the 97.5 %
point of `DRAWS` sets of as many pictures, drawn from these with a seed.

Papers: arXiv:1405.0312 (average precision as COCO has it), arXiv:1905.03246 (of lines, by their ends), Wang and others 2004,
doi:10.1109/TIP.2003.819861 (SSIM).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.answering.boxes import shared
from zoo.evaluating.figures import DRAWS, SEED, Estimate

THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
"""Of the overlap from which on a box is found; the figure is their mean."""
SQUARES = {"sap100": 100.0, "sap10": 10.0}
"""How large the squared distances of the two ends of a line, summed, may be in a picture of `LINE_SIDE` pixels."""
LINE_SIDE = 128
SPREADS = 2 * np.array((26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)) / 1000
"""Of the 17 joints of COCO: how far off persons mark them, as shares of the root of a person's area."""
RECALLS = np.linspace(0, 1, 101)
WINDOW, SIGMA = 11, 1.5
"""Of SSIM: a normal window, in pixels."""
C1, C2 = 0.01**2, 0.03**2
Weights = np.ndarray
"""(N,): how often each picture counts."""


class Found(NamedTuple):
    """Of one picture: what a detector found and what there is. boxes (N, 4), scores (N,), classes (N,); true boxes (M, 4), classes (M,)."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    true_boxes: Tensor
    true_classes: Tensor


def estimate(figure: Callable[[Weights], float], n: int, draws: int = DRAWS) -> Estimate:
    """A figure of n pictures that each count once, and the interval of the bootstrap."""
    random = np.random.default_rng(SEED)
    drawn = [figure(np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)) for _ in range(draws)]
    value = figure(np.ones(n))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def mean_of(values: Sequence[float]) -> Callable[[Weights], float]:
    """The mean of one number a picture."""
    numbers = np.asarray(values, np.float64)
    return lambda weights: float(weights @ numbers / weights.sum())


# boxes


class _Kind(NamedTuple):
    """The answers of one class, the surest first: the picture of each, whether it is right (T, N) at each threshold; what there is (P,)."""

    pictures: np.ndarray
    right: np.ndarray
    there: np.ndarray


def average_precision(found: Sequence[Found], thresholds: Sequence[float] = THRESHOLDS) -> Callable[[Weights], float]:
    """The mean over classes and thresholds of the precision at 101 recalls, as COCO's own code computes it for boxes of all sizes.

    A box is right where it overlaps one of its class that no surer box has, the one with which it shares most. Classes of which no
    picture has any do not count."""
    kinds = sorted({int(kind) for each in found for kind in each.true_classes})
    gathered = [_gathered(found, kind, thresholds) for kind in kinds]

    def figure(weights: Weights) -> float:
        values = [_precision(kind, weights) for kind in gathered if kind.there @ weights > 0]
        return float(np.mean(values)) if values else 0.0

    return figure


class Alike(NamedTuple):
    """Of one picture and one class: how sure each answer is (N,), and how much it is like each thing that there is (N, M)."""

    scores: np.ndarray
    alike: np.ndarray


def precision_of(pictures: Sequence[Alike], thresholds: Sequence[float]) -> Callable[[Weights], float]:
    """Average precision of answers of one class, which are right where they are as much like something as a threshold; the mean over these."""
    kind = _ranked(pictures, thresholds)
    return lambda weights: _precision(kind, weights) if kind.there @ weights > 0 else 0.0


def _gathered(found: Sequence[Found], kind: int, thresholds: Sequence[float]) -> _Kind:
    pictures = []
    for each in found:
        own, true = each.classes == kind, each.true_boxes[each.true_classes == kind]
        alike = shared(each.boxes[own].double(), true.double()).numpy()
        pictures.append(Alike(each.scores[own].numpy(), alike))
    return _ranked(pictures, thresholds)


def _ranked(found: Sequence[Alike], thresholds: Sequence[float]) -> _Kind:
    pictures, scores, right, there = [], [], [], np.zeros(len(found))
    for place, each in enumerate(found):
        there[place] = each.alike.shape[1]
        order = np.argsort(-each.scores, kind="stable")
        pictures += [place] * len(order)
        scores += each.scores[order].tolist()
        right.append(np.stack([_matched(each.alike[order], threshold) for threshold in thresholds]))
    surest = np.argsort(-np.asarray(scores), kind="stable")
    return _Kind(np.asarray(pictures, int)[surest], np.concatenate(right, 1)[:, surest], there)


def _matched(overlaps: np.ndarray, threshold: float) -> np.ndarray:
    """(N, M) -> (N,): whether each answer, in their order, has a true box that none before it has."""
    free, right = np.ones(overlaps.shape[1], bool), np.zeros(len(overlaps), bool)
    for row, values in enumerate(overlaps):
        candidates = np.flatnonzero(free & (values >= min(threshold, 1 - 1e-10)))
        if len(candidates):
            best = candidates[::-1][values[candidates[::-1]].argmax()]  # of equal ones the last
            free[best], right[row] = False, True
    return right


def _precision(kind: _Kind, weights: Weights) -> float:
    counts = weights[kind.pictures]
    hits = np.cumsum(kind.right * counts, 1)
    precision = hits / np.maximum(np.cumsum(counts), np.finfo(np.float64).eps)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    recall = hits / (kind.there @ weights)
    values = [
        np.append(p, 0.0)[np.searchsorted(r, RECALLS, side="left")] for p, r in zip(precision, recall, strict=True)
    ]
    return float(np.mean(values))


# joints and lines


def like_persons(joints: np.ndarray, true: np.ndarray, spreads: np.ndarray = SPREADS) -> np.ndarray:
    """(N, J, 2 or more), (M, J, 2) -> (N, M): the mean over joints of exp(-d^2 / (2 s^2 k^2)), s^2 the area of the box around a true person,
    k the joint's spread: object keypoint similarity, as COCO has it."""
    area = np.ptp(true, 1).prod(-1).clip(min=1)
    squares = ((joints[:, None, :, :2] - true[None]) ** 2).sum(-1)
    return np.asarray(np.exp(-squares / (2 * area[None, :, None] * spreads**2)).mean(-1))


def like_lines(lines: np.ndarray, true: np.ndarray, side: float) -> np.ndarray:
    """(N, 4), (M, 2, 2) -> (N, M): minus the squared distances of both ends, summed, in a picture of 128 pixels; either end may be the first."""
    ends, scale = lines.reshape(-1, 1, 2, 2), (LINE_SIDE / side) ** 2
    either = [((ends[:, :, order] - true[None]) ** 2).sum((-1, -2)) for order in ([0, 1], [1, 0])]
    return np.asarray(-scale * np.minimum(*either))


# maps


def confusion(answers: Tensor, truth: Tensor, classes: int) -> np.ndarray:
    """(classes, classes) counts of pixels, the truth down, the answer across."""
    return (
        torch.bincount((truth * classes + answers).flatten().long(), minlength=classes**2)
        .view(classes, classes)
        .double()
        .numpy()
    )


def mean_iou(counts: Sequence[np.ndarray]) -> Callable[[Weights], float]:
    """The mean over classes of pixels of both over pixels of either, of all pictures together; classes that are nowhere do not count."""
    cells = np.stack(counts)

    def figure(weights: Weights) -> float:
        whole = np.tensordot(weights, cells, 1)
        both, either = np.diagonal(whole), whole.sum(0) + whole.sum(1) - np.diagonal(whole)
        return float((both[either > 0] / either[either > 0]).mean())

    return figure


def pixel_accuracy(counts: Sequence[np.ndarray]) -> Callable[[Weights], float]:
    """The share of pixels whose class is right."""
    right, all_of_them = np.array([cells.trace() for cells in counts]), np.array([cells.sum() for cells in counts])
    return lambda weights: float(weights @ right / (weights @ all_of_them))


# pictures


def psnr(picture: Tensor, truth: Tensor) -> float:
    """-10 log10 of the mean squared difference, in decibels, of pictures (C, H, W) from 0 to 1; at most 100."""
    return float(-10 * ((picture - truth).double() ** 2).mean().clamp(min=1e-10).log10())


def ssim(picture: Tensor, truth: Tensor) -> float:
    """The mean over channels and places of how alike two pictures (C, H, W) from 0 to 1 are in a window of 11 pixels."""
    x, y = picture.double()[:, None], truth.double()[:, None]
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return float((alike / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))).mean())


def _windowed(x: Tensor) -> Tensor:
    """(C, 1, H, W): the weighted mean around each place whose window lies inside."""
    return F.conv2d(F.conv2d(x, _window().view(1, 1, 1, -1)), _window().view(1, 1, -1, 1))


@functools.cache
def _window() -> Tensor:
    places = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = (-(places**2) / (2 * SIGMA**2)).exp()
    return weights / weights.sum()
