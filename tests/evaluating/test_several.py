"""Figures of several labels a picture, against scikit-learn; and models that were trained for them, judged by `zoo evaluate`."""

from __future__ import annotations

import json
import pathlib
import warnings

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from tests.training import shades
from zoo.cli import main
from zoo.errors import InputError
from zoo.evaluating.evaluate import evaluate
from zoo.evaluating.report import page
from zoo.evaluating.several import METRICS, Marks, per_label
from zoo.publish.save import write_folder
from zoo.training.recipe import Model
from zoo.training.starting import begin

LABELS = ("dark", "even", "light")
WORDS = ["dark|even" if i % 2 == 0 else "light" for i in range(24)]


@pytest.fixture(autouse=True)
def own_data(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "zoo"))


def drawn(n: int = 300, labels: int = 5, seed: int = 0, digits: int = 1) -> Marks:
    """Logits of so few digits that many are equal; the last label never occurs."""
    draw = np.random.default_rng(seed)
    truth = draw.random((n, labels)) < np.append(np.linspace(0.1, 0.6, labels - 1), 0)
    return Marks(np.arange(n), truth, np.round(draw.normal(size=truth.shape) + 2 * truth - 1, digits))


def test_figures_of_several_labels_are_those_of_scikit_learn_and_lie_in_their_intervals() -> None:
    marks = drawn()
    truth, logits = marks.occurring[1:]
    known = {
        "mAP": average_precision_score(truth, logits, average="macro"),
        "macro_f1": f1_score(truth, logits > 0, average="macro"),
        "micro_f1": f1_score(truth, logits > 0, average="micro"),
        "exact": (marks.truth == marks.answers).all(1).mean(),
    }
    for name, value in known.items():
        figure = METRICS[name](marks)
        assert figure.value == pytest.approx(value, abs=1e-12), name
        assert figure.low < value < figure.high < figure.low + 0.15, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mAP", "macro_f1", "micro_f1"])
def test_the_interval_of_a_figure_covers_that_of_all_pictures(name: str) -> None:
    """38 of 40 samples should; fewer than 32 have a probability below 1e-4."""
    population = drawn(20_000, digits=6)
    value = METRICS[name](population).value
    hits = 0
    for seed in range(40):
        rows = np.random.default_rng(seed).choice(20_000, 250, replace=False)
        figure = METRICS[name](Marks(*(column[rows] for column in population)))
        hits += figure.low <= value <= figure.high
    assert hits >= 32


def test_each_label_has_its_shares_and_average_precision_and_one_that_is_nowhere_has_none() -> None:
    marks = drawn()
    *some, nowhere = per_label(marks, "abcde")
    assert (nowhere.pictures, nowhere.recall, nowhere.f1, nowhere.average_precision) == (0, 0.0, 0.0, 0.0)
    for i, row in enumerate(some):
        assert row.average_precision == pytest.approx(average_precision_score(marks.truth[:, i], marks.logits[:, i]))
        assert row.f1 == pytest.approx(f1_score(marks.truth[:, i], marks.answers[:, i]))
        assert row.low < row.recall < row.high


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, list[str]]:
    """A table of labels, and two models for them, with heads as they are drawn: what is judged need not be good."""
    root = tmp_path_factory.mktemp("several")
    table = shades.table(root / "data", "tags", WORDS)
    for seed in range(2):
        net = begin(shades.MODEL, Model(), len(LABELS), "multilabel", seed).net
        write_folder(net, root / f"net{seed}", LABELS)
    return table, [str(root / f"net{seed}") for seed in range(2)]


def test_a_model_for_several_labels_is_judged_and_compared(runs: tuple[pathlib.Path, list[str]]) -> None:
    table, models = runs
    found = evaluate(models, table)
    score = found.scores[0]
    assert list(score.figures) == ["mAP", "macro_f1", "micro_f1", "exact"]
    assert (score.pictures, [row.label for row in score.classes]) == (24, list(LABELS))
    assert [row.pictures for row in score.classes] == [12, 12, 12]
    assert score.figures["mAP"].value == pytest.approx(np.mean([row.average_precision for row in score.classes]))
    (pair,) = found.pairs
    right = [other.figures["exact"].correct or 0 for other in found.scores]
    assert (pair.metric, pair.only_model - pair.only_other) == ("exact", right[1] - right[0])
    assert "difference of exact" in page(found) and "average precision" in page(found)


def test_the_command_judges_labels_in_json(
    runs: tuple[pathlib.Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    table, (name, _) = runs
    assert main(["evaluate", name, "--data", str(table), "--metric", "mAP,micro_f1", "--json"]) == 0
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    assert list(score["figures"]) == ["mAP", "micro_f1"]
    assert 0 <= score["figures"]["mAP"]["low"] <= score["figures"]["mAP"]["high"] <= 1


def test_folders_of_one_class_each_are_judged_by_a_model_for_several(runs: tuple[pathlib.Path, list[str]]) -> None:
    table, (name, _) = runs
    (score,) = evaluate(name, table.parent, metrics=["mAP"]).scores
    assert [(row.label, row.pictures) for row in score.classes] == [("dark", 12), ("light", 12)]


def test_what_does_not_fit_the_task_of_a_model_is_refused(runs: tuple[pathlib.Path, list[str]]) -> None:
    table, (name, _) = runs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="one of `mAP`, `macro_f1`, `micro_f1` or `exact`; found `top1`"):
            evaluate(name, table, metrics=["top1"])
        with pytest.raises(InputError, match="a model for multilabel-classification, as .*; found one for image-"):
            evaluate([name, shades.MODEL], table)
        with pytest.raises(InputError, match="pictures for classification, .*; found a set for multilabel"):
            evaluate(shades.MODEL, table)
        with pytest.raises(InputError, match="models that answer one class; found models for multilabel"):
            evaluate(name, table, real=table.parent / "real.json")
