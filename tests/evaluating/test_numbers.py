"""Figures of numbers, against scikit-learn; and models that were trained for them, judged by `zoo evaluate`."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from tests.training import shades
from zoo.cli import main
from zoo.errors import InputError
from zoo.evaluating.evaluate import evaluate
from zoo.evaluating.numbers import METRICS, Guesses, per_number
from zoo.evaluating.report import page
from zoo.training.run import train


@pytest.fixture(autouse=True)
def own_data(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "zoo"))


def drawn(n: int = 300, seed: int = 0) -> Guesses:
    """Two numbers of different sizes, and answers with errors."""
    draw = np.random.default_rng(seed)
    truth = draw.normal((5, -40), (1, 30), (n, 2))
    return Guesses(np.arange(n), truth, truth + draw.normal(0.2, (0.5, 10), (n, 2)))


def test_figures_of_numbers_are_those_of_scikit_learn_and_lie_in_their_intervals() -> None:
    _, truth, answers = guesses = drawn()
    known = {
        "r2": r2_score(truth, answers),
        "mae": mean_absolute_error(truth, answers),
        "rmse": root_mean_squared_error(truth, answers),
        "correlation": np.mean([np.corrcoef(truth[:, i], answers[:, i])[0, 1] for i in range(2)]),
    }
    assert set(known) == set(METRICS)
    for name, value in known.items():
        figure = METRICS[name](guesses)
        assert figure.value == pytest.approx(value, rel=1e-9), name
        assert figure.low < value < figure.high, name
        assert figure.high - figure.low < 0.3 * abs(value), name
    assert [row.figures["mae"].value for row in per_number(guesses, "ab")] == pytest.approx(
        np.abs(truth - answers).mean(0)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_the_interval_covers_the_figure_of_all_pictures(name: str) -> None:
    """38 of 40 samples should; fewer than 32 have a probability below 1e-4."""
    population = drawn(20_000)
    value, hits = METRICS[name](Guesses(*(column[:4000] for column in population))).value, 0
    for seed in range(40):
        rows = np.random.default_rng(seed).choice(4000, 250, replace=False)
        figure = METRICS[name](Guesses(*(column[rows] for column in population)))
        hits += figure.low <= value <= figure.high
    assert hits >= 32


def test_numbers_that_are_all_the_same_have_finite_figures() -> None:
    guesses = Guesses(np.arange(4), np.full((4, 1), 7.0), np.full((4, 1), 7.0))
    assert METRICS["r2"](guesses).value == 1.0
    assert METRICS["correlation"](guesses).value == 0.0


def test_a_model_of_numbers_is_trained_judged_and_compared_with_intervals(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = shades.table(tmp_path / "data", "grams,metres", [f"{100.5 + i},{i % 2}.5" for i in range(24)])
    runs = [
        train(shades.MODEL, table, tmp_path / name, settings=shades.QUICK | {"seed": seed})
        for seed, name in enumerate(("one", "two"))
    ]
    low, high = runs[0].ci95 or (0.0, 0.0)
    assert low <= runs[0].value <= high and low < high
    folders = [str(run.folder) for run in runs]
    found = evaluate(folders, table, split="")
    score = found.scores[0]
    assert list(score.figures) == list(METRICS) and [each.label for each in score.numbers] == ["grams", "metres"]
    assert score.figures["mae"].value == pytest.approx(np.mean([each.figures["mae"].value for each in score.numbers]))
    assert (found.pairs[0].metric, found.pairs[0].only_model + found.pairs[0].only_other) == ("nearer", 24)
    assert "| number | r2 | mae | rmse | correlation |" in page(found)
    assert main(["evaluate", folders[0], "--data", str(table), "--metric", "r2,mae", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["scores"][0]["figures"]) == {"r2", "mae"}
    assert main(["evaluate", folders[0], "--data", str(table)]) == 0
    assert "mae and rmse have their units" in capsys.readouterr().out


def test_a_set_of_classes_is_not_one_of_numbers(tmp_path: pathlib.Path) -> None:
    table = shades.table(tmp_path / "data", "grams", [f"{100.5 + i}" for i in range(24)])
    run = train(shades.MODEL, table, tmp_path / "run", settings=shades.QUICK | {"schedule.epochs": 1})
    with pytest.raises(
        InputError, match="pictures for regression, as the model is for it; found a set for classification"
    ):
        evaluate(str(run.folder), tmp_path / "data")
