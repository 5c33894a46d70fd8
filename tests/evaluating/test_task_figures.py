"""Figures of nets for tasks against the code that others keep: COCO's own, scikit-learn's, scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import jaccard_score

from zoo.evaluating import task_figures as figures
from zoo.evaluating.task_figures import Found

COCO = {
    0: (0.3060050705845148, 0.4270865787005618),
    1: (0.3864528346377814, 0.5180043692327543),
    2: (0.3805172488745215, 0.5308129698938383),
}
"""Seed -> (AP, AP50) of pycocotools 2.0.11, `COCOeval` of boxes with its usual parameters, on `answers(seed)`."""


def answers(seed: int, pictures: int = 30) -> list[Found]:
    """Boxes in pictures of 100 pixels a side, of three classes, found more or less well, missed, doubled and invented."""
    random, found = np.random.RandomState(seed), []
    for _ in range(pictures):
        count = random.randint(0, 6)
        first = random.uniform(0, 60, (count, 2))
        true = np.hstack([first, first + random.uniform(15, 40, (count, 2))])
        kinds = random.randint(0, 3, count)
        seen = np.concatenate([true[random.uniform(size=count) < 0.8], true[random.uniform(size=count) < 0.3]])
        chosen = [int(np.flatnonzero((true == box).all(1))[0]) for box in seen]
        first = random.uniform(0, 60, (2, 2))
        boxes = np.concatenate([seen + random.normal(0, 1.2, seen.shape), np.hstack([first, first + 20])])
        classes = np.concatenate([kinds[chosen], random.randint(0, 3, 2)]).astype(np.int64)
        scores = random.uniform(0.05, 1, len(boxes))
        found.append(Found(*map(torch.from_numpy, (boxes, scores, classes, true, kinds.astype(np.int64)))))
    return found


@pytest.mark.parametrize("seed", COCO)
def test_average_precision_is_that_of_pycocotools(seed: int) -> None:
    found = answers(seed)
    ones = np.ones(len(found))
    assert figures.average_precision(found)(ones) == pytest.approx(COCO[seed][0], abs=1e-9)
    assert figures.average_precision(found, [0.5])(ones) == pytest.approx(COCO[seed][1], abs=1e-9)


def test_a_picture_that_counts_twice_is_two_pictures_whose_answers_are_as_sure() -> None:
    found = answers(3, 8)
    twice = figures.average_precision(found)(np.array([2.0, *[1.0] * 7]))
    assert twice == pytest.approx(figures.average_precision([found[0], *found])(np.ones(9)), abs=0.02)


def test_average_precision_of_right_answers_is_one_and_of_none_zero() -> None:
    true, kinds = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]), torch.tensor([0, 1])
    right = Found(true, torch.ones(2), kinds, true, kinds)
    nothing = Found(true[:0], torch.ones(0), kinds[:0], true, kinds)
    assert figures.average_precision([right])(np.ones(1)) == pytest.approx(1.0)
    assert figures.average_precision([nothing])(np.ones(1)) == 0.0


def test_mean_iou_is_scikit_learns_and_its_interval_lies_around_it() -> None:
    random = torch.Generator().manual_seed(0)
    truth, guess = (torch.randint(4, (20, 9, 7), generator=random) for _ in range(2))
    guess = torch.where(torch.rand(truth.shape, generator=random) < 0.7, truth, guess)
    counts = [figures.confusion(g, t, 5) for g, t in zip(guess, truth, strict=True)]
    found = figures.estimate(figures.mean_iou(counts), 20)
    assert found.value == pytest.approx(jaccard_score(truth.flatten(), guess.flatten(), average="macro"))
    assert found.low < found.value < found.high
    accuracy = figures.pixel_accuracy(counts)(np.ones(20))
    assert accuracy == pytest.approx(float((truth == guess).double().mean()))


@pytest.mark.parametrize("channels", [1, 3])
def test_likeness_of_pictures_is_that_of_scikit_image(channels: int) -> None:
    random = np.random.RandomState(0)
    truth = random.uniform(size=(channels, 24, 31))
    picture = np.clip(truth + random.normal(0, 0.1, truth.shape), 0, 1)
    ours = torch.from_numpy(picture), torch.from_numpy(truth)
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=0)
    assert figures.ssim(*ours) == pytest.approx(structural_similarity(picture, truth, **options), abs=1e-9)
    assert figures.psnr(*ours) == pytest.approx(peak_signal_noise_ratio(truth, picture, data_range=1.0), abs=1e-9)


COCO_PERSONS = {
    0: (0.060941984631559476, 0.17345453032698227),
    1: (0.14462035610955404, 0.29372524014476586),
    2: (0.061222610982902805, 0.1424092409240924),
}
"""Seed -> (AP, AP50) of pycocotools 2.0.11, `COCOeval` of key points with its usual parameters, on `postures(seed)`."""


def postures(seed: int, pictures: int = 20) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(joints (N, 17, 2), scores (N,), true joints (M, 17, 2)) of pictures of 200 pixels a side, found more or less well, missed and invented.
    Persons are large enough that none counts as a small one, which COCO leaves out."""
    random, found = np.random.RandomState(seed), []
    for _ in range(pictures):
        count = random.randint(0, 4)
        true = random.uniform(0, 90, (count, 17, 2)) + random.uniform(0, 100, (count, 1, 2))
        seen = true[random.uniform(size=count) < 0.8]
        noise = random.normal(0, 1, seen.shape) * random.uniform(0, 14, (len(seen), 1, 1))
        joints = np.concatenate([seen + noise, random.uniform(0, 200, (1, 17, 2))])
        found.append((joints, random.uniform(0.05, 1, len(joints)), true))
    return found


@pytest.mark.parametrize("seed", COCO_PERSONS)
def test_average_precision_of_persons_is_that_of_pycocotools(seed: int) -> None:
    found = [figures.Alike(scores, figures.like_persons(joints, true)) for joints, scores, true in postures(seed)]
    for value, thresholds in zip(COCO_PERSONS[seed], (figures.THRESHOLDS, [0.5]), strict=True):
        assert figures.precision_of(found, thresholds)(np.ones(len(found))) == pytest.approx(value, abs=1e-9)


def test_a_line_is_found_where_both_ends_are_near_whichever_is_the_first() -> None:
    true = np.array([[[0.0, 0.0], [64.0, 64.0]]])
    near, turned, far = [1.0, 1, 64, 64], [64.0, 64, 0, 0], [0.0, 3, 64, 64]
    alike = figures.like_lines(np.array([near, turned, far]), true, 64)
    assert alike[:, 0].tolist() == [-8.0, 0.0, -36.0]
    scores = np.array([0.9, 0.8, 0.7])
    figure = figures.precision_of([figures.Alike(scores, alike)], [-figures.SQUARES["sap10"]])
    assert figure(np.ones(1)) == pytest.approx(1.0)
    missed = figures.precision_of([figures.Alike(scores[2:], alike[2:])], [-figures.SQUARES["sap10"]])
    assert missed(np.ones(1)) == 0.0
