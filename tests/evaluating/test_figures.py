"""Figures of answers, against scikit-learn, and against what intervals promise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, top_k_accuracy_score

from zoo.errors import InputError
from zoo.evaluating.figures import METRICS, Answers, calibration_error, check_metrics, per_class
from zoo.evaluating.paired import paired
from zoo.weights.stats import wilson_interval


def drawn(n: int = 400, classes: int = 7, skill: float = 1.5, seed: int = 0) -> tuple[Answers, np.ndarray]:
    """Answers of a classifier that draws its logits, and its chances (n, classes)."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, classes, n)
    logits = draw.normal(size=(n, classes))
    logits[np.arange(n), truth] += skill
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ranks = (logits > logits[np.arange(n), truth][:, None]).sum(1)
    return Answers(np.arange(n), truth, chances.argmax(1), ranks, chances.max(1)), chances


def of_right(right: np.ndarray, start: int = 0) -> Answers:
    zeros = np.zeros(len(right), int)
    return Answers(np.arange(start, start + len(right)), zeros, 1 - right, 1 - right, zeros + 1.0)


def test_top1_and_top5_are_those_of_scikit_learn_with_wilsons_interval() -> None:
    answers, chances = drawn()
    for name, k in (("top1", 1), ("top5", 5)):
        figure = METRICS[name](answers)
        assert figure.value == pytest.approx(top_k_accuracy_score(answers.truth, chances, k=k), abs=1e-15)
        assert (figure.low, figure.high) == wilson_interval(figure.correct or 0, 400)


def test_macro_f1_is_that_of_scikit_learn_and_its_interval_holds_it() -> None:
    answers, _ = drawn()
    figure = METRICS["macro_f1"](answers)
    assert figure.value == pytest.approx(f1_score(answers.truth, answers.answers, average="macro"), abs=1e-15)
    assert figure.low < figure.value < figure.high < figure.low + 0.12


def test_the_interval_of_macro_f1_covers_the_figure_of_all_pictures() -> None:
    """95 of 100 samples should; fewer than 85 would have a probability below 1e-4."""
    population, _ = drawn(20_000)
    truth = METRICS["macro_f1"](population).value
    hits = 0
    for seed in range(100):
        rows = np.random.default_rng(seed).choice(20_000, 150, replace=False)
        figure = METRICS["macro_f1"](Answers(*(column[rows] for column in population)))
        hits += figure.low <= truth <= figure.high
    assert hits >= 85


def test_the_calibration_error_of_a_sure_fool_is_his_sureness() -> None:
    figure = calibration_error(of_right(np.zeros(50, int)))
    assert (figure.value, figure.low, figure.high) == (1.0, 1.0, 1.0)


def test_the_calibration_error_is_the_mean_gap_of_bins() -> None:
    sure = np.array([0.62, 0.64, 0.9, 0.92])
    right = np.array([1, 0, 1, 1])
    answers = Answers(np.arange(4), np.zeros(4, int), 1 - right, 1 - right, sure)
    assert calibration_error(answers).value == pytest.approx(abs(1 - 1.26) / 4 + abs(2 - 1.82) / 4)


def test_classes_have_their_shares_and_those_that_are_never_answered_have_none() -> None:
    truth, answers = np.array([2, 2, 2, 5]), np.array([2, 2, 9, 2])
    rows = per_class(Answers(np.arange(4), truth, answers, truth * 0, truth * 1.0), ["cat", "dog"], [2, 5])
    assert [(row.label, row.pictures, row.recall, row.precision) for row in rows] == [
        ("cat", 3, pytest.approx(2 / 3), pytest.approx(2 / 3)),
        ("dog", 1, 0.0, 0.0),
    ]


def test_two_models_are_told_apart_where_their_own_intervals_overlap() -> None:
    one = of_right(np.array([1] * 910 + [0] * 90))
    other = of_right(np.array([1] * 890 + [0] * 110))
    pair = paired(("a", "b"), "set", one, other)
    assert (pair.only_model, pair.only_other, pair.verdict) == (20, 0, "better")
    assert pair.p == pytest.approx(2 * 0.5**20)
    assert 0 < pair.low < pair.difference < pair.high and pair.difference == pytest.approx(0.02)
    assert METRICS["top1"](one).low < METRICS["top1"](other).high
    assert paired(("b", "a"), "set", other, one).verdict == "worse"


def test_equal_models_are_not_told_apart_and_only_shared_pictures_count() -> None:
    right = np.array([1, 0, 1, 1])
    pair = paired(("a", "b"), "set", of_right(right), of_right(right[1:], start=1))
    assert (pair.pictures, pair.only_model, pair.only_other, pair.p, pair.verdict) == (
        3,
        0,
        0,
        1.0,
        "not distinguishable",
    )


def test_a_verdict_is_harder_among_many_comparisons() -> None:
    one, other = of_right(np.array([1] * 9 + [0] * 2)), of_right(np.array([0] * 8 + [1] + [0] * 2))
    assert paired(("a", "b"), "set", one, other).verdict == "better"
    assert paired(("a", "b"), "set", one, other, comparisons=10).verdict == "not distinguishable"


def test_a_metric_that_is_none_names_the_nearest() -> None:
    with pytest.raises(
        InputError,
        match="expected one of `top1`, `top5`, `macro_f1` or `calibration_error`; found `tpo1`; nearest `top1`",
    ):
        check_metrics(["tpo1"], METRICS)
