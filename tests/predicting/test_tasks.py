"""Nets for tasks on pictures: what is told, drawn and written, and what the embedded weights can."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.answering.answers import Answering
from zoo.answering.names import ANSWERS, PICTURES, TASKS
from zoo.catalog.listing import list_pretrained
from zoo.cli import main
from zoo.data.scenes import HELD_OUT, SCENES, THINGS, scene
from zoo.errors import InputError
from zoo.evaluating.scenes import METRICS, evaluate_scenes, judge
from zoo.predicting.predictor import Wish
from zoo.predicting.tasks import TaskPredictor, demonstrated

TRAINED = [name for name in list_pretrained() if name.endswith(f".{SCENES}")]
TASK = {name: zoo.info(name).task for name in TRAINED}
DETECTOR = next(name for name, task in TASK.items() if task == "object-detection")
SHOWN = sorted(set(TASK.values()))


def test_weights_that_ship_are_small_and_of_tasks_that_are_known() -> None:
    assert set(TASK.values()) <= set(TASKS) == set(METRICS) == set(ANSWERS)
    assert all(zoo.create(name).pretrained.size_bytes <= 2**20 for name in TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_the_figures_of_embedded_weights_come_again(name: str) -> None:
    known = zoo.create(name).pretrained.metrics
    side = next(iter(known)).rpartition("@")[2]
    (score,) = evaluate_scenes([name], count=20, record=False)
    for figure, found in score.figures.items():
        published = known[f"{SCENES}/{figure}@{side}"]
        low, high = published.ci95 or (0, 0)
        assert found.low <= high and low <= found.high, figure


@pytest.mark.parametrize("name", TRAINED)
def test_embedded_weights_are_better_than_first_values(name: str) -> None:
    net = zoo.create(name)
    known = {key.partition("/")[2].partition("@")[0]: value for key, value in net.pretrained.metrics.items()}
    first = METRICS[TASK[name]][0]
    torch.manual_seed(0)
    untrained = judge(zoo.create(name.partition(".")[0]), zoo.transform(net), count=40)[first]
    assert known[first].ci95[0] > untrained.high  # type: ignore[index]
    if TASK[name] in PICTURES:  # and than leaving the picture as it is
        assert known["psnr_gain"].ci95[0] > 0  # type: ignore[index]


def test_a_detector_finds_the_things_of_a_scene_in_the_pixels_of_a_wide_picture(tmp_path: pathlib.Path) -> None:
    made = scene(HELD_OUT, 128)
    wide = np.full((128, 256, 3), 114, np.uint8)
    wide[:, 64:192] = made.picture
    image = Image.fromarray(wide).resize((512, 256), Image.Resampling.NEAREST)
    image.save(tmp_path / "wide.png")
    (row,) = zoo.predict_images(DETECTOR, tmp_path / "wide.png", score=0.3)  # type: ignore[misc]
    assert {thing["label"] for thing in row["things"]} <= set(THINGS)
    assert all(0 <= x1 < x2 <= 512 and 0 <= y1 < y2 <= 256 for x1, y1, x2, y2 in (t["box"] for t in row["things"]))
    (plain,) = [TaskPredictor(Wish(name=DETECTOR)).output(made.picture)]
    assert plain.plain()["things"]


def test_answers_are_written_beside_what_is_drawn(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(scene(HELD_OUT, 90).picture).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no picture")
    words = ["predict", DETECTOR, str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {"label", "index", "score", "box"} == set(rows[0]["things"][0])
    assert "no image" in rows[1]["error"]
    assert json.loads((tmp_path / "out" / "a.json").read_text()) == rows[0]
    assert Image.open(tmp_path / "out" / "a.png").size == (90, 90)
    assert not (tmp_path / "out" / "b.png").exists()
    assert main(words) == 2
    assert "--force" in capsys.readouterr().out


def test_what_is_drawn_takes_the_place_of_no_picture(tmp_path: pathlib.Path) -> None:
    before = np.random.RandomState(0).randint(0, 255, (20, 30, 3), np.uint8)
    for name in ("a.png", "a-2.jpg", "below/a.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(before).save(tmp_path / "in" / name)
    for force in (False, True):
        with pytest.raises(InputError, match="expected a folder without the pictures"):
            zoo.predict_images(DETECTOR, tmp_path / "in", tmp_path / "in", force=force)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "in" / "a.png")), before)
    zoo.predict_images(DETECTOR, tmp_path / "in", tmp_path / "out")
    stems = {path.stem: json.loads(path.read_text())["image"] for path in (tmp_path / "out").glob("*.json")}
    assert len(stems) == len(set(stems.values())) == 3 and {"a", "a-2"} < set(stems)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.png").write_text("mine")
    with pytest.raises(InputError, match="a folder without answers about it; found a.png"):
        zoo.predict_images(DETECTOR, tmp_path / "in" / "a.png", tmp_path / "there")


@pytest.mark.parametrize("task", [task for task in PICTURES if task in SHOWN])
def test_a_picture_of_any_size_comes_back(task: str) -> None:
    name = next(name for name, its in TASK.items() if its == task)
    output = TaskPredictor(Wish(name=name)).output(scene(HELD_OUT, 64).picture[:37, :51])
    factor = 2 if task == "super-resolution" else 1
    assert output.plain() == {"width": 51 * factor, "height": 37 * factor}


@pytest.mark.parametrize("task", SHOWN)
def test_the_demonstration_shows_what_goes_in_what_is_known_and_what_is_answered(
    task: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shown.png"
    assert main(["demo", "--task", task, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["answers"]) == [name for name in TRAINED if TASK[name] == task]
    assert Image.open(out).width > 3 * 256


def test_what_is_for_classes_alone_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="--features\n    expected a model that answers classes"):
        zoo.predict_images(DETECTOR, ["a.png"], features=True)
    with pytest.raises(InputError, match="nearest `object-detection`"):
        demonstrated("object-detecton")
    for number, thing in enumerate(THINGS):
        (tmp_path / thing).mkdir()
        Image.fromarray(scene(number).picture).save(tmp_path / thing / "a.png")
    with pytest.raises(InputError, match="`--data scenes` judges it"):
        zoo.evaluate(DETECTOR, tmp_path)


def test_the_net_with_what_comes_behind_it_is_one_file(tmp_path: pathlib.Path) -> None:
    net = zoo.create(DETECTOR)
    x = zoo.transform(net)(scene(HELD_OUT, 128).picture)
    path = zoo.export(net, tmp_path / "answers.onnx", to="onnx", example=x, dynamic=(), answers=True)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    found = dict(
        zip(
            [o.name for o in session.get_outputs()],
            session.run(None, {session.get_inputs()[0].name: x.numpy()}),
            strict=True,
        )
    )
    expected = Answering(net)(x)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value.detach().numpy(), rtol=1e-3, atol=1e-2)
    assert zoo.profile(Answering(net), tuple(x.shape)).macs >= zoo.profile(net, tuple(x.shape)).macs
    assert torch.count_nonzero(expected["scores"]) > 0
