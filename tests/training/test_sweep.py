"""Sweeps: each trial is a run, one that was broken off goes on, and the best is told with its interval."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pytest

import zoo
from tests.training import shades
from tests.training.shades import MODEL, QUICK
from zoo.cli import main
from zoo.errors import InputError
from zoo.training.sweep import Sweep, Trial, sweep
from zoo.training.trainer import Moment, Watch

SPACE = {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "augment.scale": [[0.5, 1.0], [1.0, 1.0]]}
SHORT = QUICK | {"schedule.epochs": 1}


class Killed(Exception):
    """Stands for a signal that no process survives."""


def killing(moment: Moment) -> None:
    raise Killed


def swept(data: pathlib.Path, out: pathlib.Path, trials: int, **options: Any) -> Sweep:
    pytest.importorskip("optuna")
    return sweep(MODEL, data, out, options.pop("space", SPACE), trials=trials, settings=SHORT, **options)


def facts(found: Sweep) -> list[tuple[int, Any, Any]]:
    return [(trial.number, trial.value, trial.settings) for trial in found.trials]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return shades.folder(tmp_path_factory.mktemp("shades"), 16)


@pytest.mark.slow  # four trainings
def test_a_sweep_that_was_killed_goes_on_and_ends_as_one_that_was_not(
    data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(Killed):
        swept(data, tmp_path / "broken", 2, watch=Watch(step=killing))
    told: list[Trial] = []
    one = swept(data, tmp_path / "broken", 1, told=told.append)
    assert [trial.number for trial in told] == [0], "the trial that was killed"
    broken, whole = swept(data, tmp_path / "broken", 2), swept(data, tmp_path / "whole", 2)
    assert facts(broken) == facts(whole) and one.best.settings in [trial.settings for trial in whole.trials]
    assert len({trial.settings["optimizer.lr"] for trial in whole.trials}) == 2
    best = whole.best
    assert best.value == max(trial.value or 0 for trial in whole.trials)
    assert best.ci95 is not None and best.ci95[0] <= (best.value or 0) <= best.ci95[1]
    assert zoo.labels(zoo.create(best.folder)) == ["dark", "light"]
    recipe = (pathlib.Path(best.folder) / "recipe.toml").read_text()
    assert f"lr = {best.settings['optimizer.lr']!r}" in recipe
    with pytest.raises(InputError, match="a sweep of this model, recipe, ranges and pictures; found another"):
        swept(data, tmp_path / "whole", 3, space={"seed": [0, 1]})


@pytest.mark.slow  # two trainings
def test_folders_that_name_one_storage_share_their_trials(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    storage = f"sqlite:///{tmp_path}/shared.db"
    swept(data, tmp_path / "one", 1, storage=storage)
    found = swept(data, tmp_path / "two", 2, storage=storage)
    homes = {trial.number: pathlib.Path(trial.folder).parent.name for trial in found.trials}
    assert homes == {0: "one", 1: "two"}


def test_a_trial_that_fails_says_why_and_a_sweep_without_any_other_is_an_error(
    data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    told: list[Trial] = []
    space = {"optimizer.accumulate": [3, 5]}
    with pytest.raises(
        InputError, match="a trial that came to its end; found 2, none of which did: expected a divisor"
    ):
        swept(data, tmp_path / "out", 2, space=space, told=told.append)
    assert [trial.value for trial in told] == [None, None]
    kept = json.loads((tmp_path / "out" / "sweep.json").read_text())["trials"]
    assert [trial["reason"][:28] for trial in kept] == ["expected a divisor of data.b"] * 2


def test_what_no_sweep_can_begin_with_is_one_sentence(
    data: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="a new folder; found other files"):
        swept(data, data, 1)
    with pytest.raises(InputError, match="--storage\n +expected a database that SQLAlchemy opens"):
        swept(data, tmp_path / "out", 1, storage="nosuch://place")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one --storage for all"):
        swept(data, tmp_path / "out", 1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r'no such package; next: pip install "blockzoo\[sweep\]"'):
        sweep(MODEL, data, tmp_path / "out", SPACE)


@pytest.mark.slow  # two trainings
def test_the_command_prints_trials_and_the_best_with_its_interval(
    data: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "space.toml").write_text("[optimizer]\nlr = [0.001, 0.01]\n")
    words = [
        "sweep",
        MODEL,
        "--data",
        str(data),
        "--space",
        str(tmp_path / "space.toml"),
        "--out",
        str(tmp_path / "out"),
    ]
    sets = [word for path, value in SHORT.items() for word in ("--set", f"{path}={value}")]
    assert main([*words, *sets, "--trials", "2"]) == 0
    printed, heard = capsys.readouterr()
    assert "best of 2: trial" in printed and "(95 % interval" in printed
    assert "trial 0: top1" in heard and "trial 1: top1" in heard
    assert main([*words, *sets, "--trials", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"][0] == found["best"]


@pytest.mark.slow  # a training
def test_the_interval_of_several_labels_is_that_of_the_bootstrap(tmp_path: pathlib.Path) -> None:
    words = ["dark|even" if i % 2 == 0 else "light" for i in range(24)]
    found = zoo.train(MODEL, shades.table(tmp_path / "data", "tags", words), tmp_path / "RUN", settings=SHORT)
    assert found.ci95 is not None and 0 <= found.ci95[0] <= found.value <= found.ci95[1] <= 1
