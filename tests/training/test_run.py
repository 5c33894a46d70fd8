"""A training on pictures: what it leaves behind is a model, and one that was broken off ends as if it had not been."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoo
from tests.training import shades
from tests.training.shades import MODEL, QUICK
from zoo.errors import InputError
from zoo.predicting.predictor import Wish
from zoo.predicting.rows import Row
from zoo.predicting.run import rows_of
from zoo.training.outcome import BEST, LAST, Run
from zoo.training.run import train
from zoo.training.trainer import Moment, Watch


class Killed(Exception):
    """Stands for a signal that no process survives: nothing is saved behind it."""


def stopping(*steps: int) -> Watch:
    def step(moment: Moment) -> None:
        if moment.step in steps:
            raise Killed

    return Watch(step=step)


def trained(data: pathlib.Path, out: pathlib.Path, settings: dict[str, Any] | None = None, **options: Any) -> Run:
    return train(options.pop("model", MODEL), data, out, settings=QUICK | (settings or {}), **options)


def answer(run: Run, picture: pathlib.Path) -> Row:
    """What `zoo predict RUN PICTURE` finds."""
    return rows_of(Wish(name=str(run.folder), top=3), [picture], "", lambda now: None)[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return shades.folder(tmp_path_factory.mktemp("shades"))


@pytest.fixture(scope="module")
def run(data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    said: list[str] = []
    result = trained(data, tmp_path_factory.mktemp("run") / "RUN", {"schedule.epochs": 4}, watch=Watch(say=said.append))
    assert said[0].startswith(f"{MODEL}: weights of {MODEL}.digits (")
    return result


def test_the_folder_is_a_model_with_labels_preparation_and_figures(run: Run, data: pathlib.Path) -> None:
    model: Any = zoo.create(str(run.folder))
    manifest = model.pretrained
    (name, metric), *others = manifest.metrics.items()
    assert zoo.labels(model) == ["dark", "light"]
    assert (name.partition("/")[2], metric.n, metric.value, others) == ("top1@32", run.n, run.value, [])
    assert manifest.preprocess.channels == 1
    prepare, truths = zoo.transform(str(run.folder)), {"dark": 0, "light": 1}
    held_out = [path for path in data.rglob("*.png")][:6]
    answers = model(prepare(held_out)).argmax(-1).tolist()
    assert run.value < 1 or sum(a == truths[p.parent.name] for a, p in zip(answers, held_out, strict=True)) >= 5


def test_the_page_of_a_run_shows_curves_mistakes_and_the_recipe(run: Run) -> None:
    page = (run.folder / "report.html").read_text()
    assert page.count("<polyline") == 3
    assert all(word in page for word in ("dark", "light", "optimizer.layer_decay", "The worst mistakes"))
    assert "<script" not in page


@pytest.mark.parametrize(("kills", "minutes"), [((1, 5), 1e-6), ((3,), 10.0)])
def test_a_run_that_was_killed_ends_bit_equal(
    data: pathlib.Path, tmp_path: pathlib.Path, kills: tuple[int, ...], minutes: float
) -> None:
    settings = {"model.drop_rate": 0.1, "augment.mixup": 0.4, "augment.erasing": 0.3, "schedule.epochs": 3}
    settings["engine.save_minutes"] = minutes
    whole = trained(data, tmp_path / "whole", settings)
    for kill in kills:
        with pytest.raises(Killed):
            trained(data, tmp_path / "broken", settings, resume=True, watch=stopping(kill))
    again = trained(data, tmp_path / "broken", settings, resume=True)
    assert again.history == whole.history
    for file in (LAST, BEST, pathlib.Path("model.safetensors")):
        first, second = (load_file(tmp_path / name / file) for name in ("whole", "broken"))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_folder_with_a_run_in_it_is_not_written_over(run: Run, data: pathlib.Path) -> None:
    with pytest.raises(InputError, match="--resume goes on with it"):
        trained(data, run.folder)
    with pytest.raises(InputError, match="a new folder; found other files"):
        trained(data, data)
    with pytest.raises(InputError, match="schedule.epochs = 4 instead of 5"):
        trained(data, run.folder, {"schedule.epochs": 5}, resume=True)


def test_a_run_that_is_over_says_the_same_when_it_is_resumed(run: Run, data: pathlib.Path) -> None:
    again = trained(data, run.folder, {"schedule.epochs": 4, "data.workers": 1}, resume=True)
    assert (again.value, again.history) == (run.value, run.history)


def test_a_trained_model_is_where_another_training_begins(run: Run, data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    trained(data, tmp_path / "next", {"schedule.epochs": 1}, model=str(run.folder), watch=Watch(say=said.append))
    assert said[0].startswith(f"{MODEL}: weights of {MODEL}.trained;")


def test_several_classes_a_picture_are_learned(tmp_path: pathlib.Path) -> None:
    words = ["dark|even" if i % 2 == 0 else "light" for i in range(24)]
    tags = trained(shades.table(tmp_path / "data", "tags", words), tmp_path / "RUN", {"optimizer.lr": 4e-3})
    assert (tags.task, tags.labels, tags.figure) == ("multilabel", ("dark", "even", "light"), "mAP")
    assert tags.value > 0.8
    row = answer(tags, tmp_path / "data" / "dark" / "000.png")
    assert sum(each.chance for each in row.classes) > 1.2, "two classes are likely at once"


def test_numbers_are_learned_and_answered_in_their_units(tmp_path: pathlib.Path) -> None:
    numbers = [f"{(100.5, 300.25)[i % 2]}" for i in range(24)]
    table, settings = shades.table(tmp_path / "data", "grams", numbers), {"schedule.epochs": 8, "optimizer.lr": 4e-3}
    run = trained(table, tmp_path / "RUN", settings)
    assert (run.task, run.labels, run.figure) == ("regression", ("grams",), "r2")
    model: Any = zoo.create(str(run.folder))
    assert model.spec.family.task == "image-regression"
    pictures = [tmp_path / "data" / name for name in ("dark/000.png", "light/001.png")]
    low, high = model(zoo.transform(str(run.folder))(pictures)).flatten().tolist()
    assert 50 < low < 200 < high < 350
    assert answer(run, pictures[0]).numbers == pytest.approx([low], rel=1e-4)


def test_adapters_frozen_norms_balance_weights_and_half_precision_go_together(
    data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    settings = {
        "model.lora": 2, "model.batch_norm": "frozen", "data.balanced": True, "loss.class_weights": True,
        "engine.precision": "bfloat16", "optimizer.accumulate": 2, "engine.checkpointing": True,
    }  # fmt: skip
    result = trained(data, tmp_path / "RUN", settings)
    model: Any = zoo.create(str(result.folder))
    assert not any("parametrizations" in name for name in model.state_dict())
    assert next(model.parameters()).dtype == torch.float32


def test_a_teacher_of_other_classes_is_refused_and_one_of_the_same_teaches(
    run: Run, data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    taught = {"distill.teacher": str(run.folder), "distill.features": 1.0, "schedule.epochs": 1}
    assert trained(data, tmp_path / "taught", taught, model="starnet_nano").history[0].loss > 0
    with pytest.raises(InputError, match="found 10 classes; next: train one on the same data"):
        trained(data, tmp_path / "other", {"distill.teacher": "starnet_nano.digits"})


def test_training_stops_where_nothing_gets_better(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result = trained(
        data,
        tmp_path / "RUN",
        {"schedule.epochs": 30, "schedule.patience": 1, "optimizer.lr": 1e-12, "optimizer.ema": 0},
    )
    assert len(result.history) < 5


def test_what_cannot_be_is_told_before_the_first_step(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for settings, words in (
        ({"optimizer.name": "adamv"}, "nearest `adam"),
        ({"data.batch_size": 5, "augment.mixup": 1}, "a multiple of 2"),
        ({"distill.teacher": "no_such_net"}, "no_such_net"),
    ):
        with pytest.raises(zoo.InputError if "no_such" not in words else zoo.UnknownModelError, match=words):
            trained(data, tmp_path / "RUN", settings)
    with pytest.raises(InputError, match="expected a model of pictures; found one of tokens"):
        trained(data, tmp_path / "RUN", model="gla_nano")
    with pytest.raises(InputError, match="tensorboard, wandb or both"):
        trained(data, tmp_path / "RUN", log="tensorbord")
    with pytest.raises(InputError, match="float32 or bfloat16 on a CPU"):
        trained(data, tmp_path / "RUN", {"engine.precision": "float16"})
    assert not (tmp_path / "RUN").exists()
