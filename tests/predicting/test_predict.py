"""`zoo predict` on many pictures: the same answers from every source and into every file."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from PIL import Image

import zoo
from zoo.cli import main
from zoo.data import digits
from zoo.data.pictures import Picture
from zoo.data.sources import pictures_of
from zoo.predicting.predictor import Placed, Predictor, Wish
from zoo.predicting.rows import Row
from zoo.predicting.run import predict_images

NAME = "starnet_nano"
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Twelve scans in two folders, one of which is no picture."""
    folder = tmp_path_factory.mktemp("scans")
    images, _ = digits.held_out()
    for i in range(12):
        path = folder / str(i % 2) / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(images[i]).save(path)
    (folder / "0" / "04.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(Wish(name=NAME, top=3, batch=5))


def answers(predictor: Predictor, source: pathlib.Path) -> list[tuple[str, tuple[int, ...]]]:
    pictures = pictures_of([source])
    rows = list(predictor.rows(map(Placed, range(len(pictures)), pictures)))
    assert [row.position for row in rows] == list(range(len(pictures)))
    return [(row.image.rpartition("/")[2], tuple(each.index for each in row.classes)) for row in rows]


def test_rows_are_those_of_the_model_one_by_one(scans: pathlib.Path, predictor: Predictor) -> None:
    model, prepare = zoo.create(NAME, pretrained=True), zoo.transform(NAME)
    for name, indices in answers(predictor, scans):
        if name == "04.png":
            assert indices == ()
        else:
            (path,) = scans.rglob(name)
            with torch.no_grad():
                assert tuple(model(prepare(path)).softmax(-1)[0].topk(3).indices.tolist()) == indices


def test_a_tar_of_a_folder_has_the_answers_of_the_folder(
    scans: pathlib.Path, predictor: Predictor, tmp_path: pathlib.Path
) -> None:
    for ending, mode in (("tar", "w"), ("tgz", "w:gz")):
        with tarfile.open(tmp_path / f"scans.{ending}", mode) as archive:
            archive.add(scans, "scans")
        assert sorted(answers(predictor, tmp_path / f"scans.{ending}")) == sorted(answers(predictor, scans))


def test_every_file_holds_the_same_rows(scans: pathlib.Path, tmp_path: pathlib.Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for ending in ("jsonl", "csv", "parquet"):
        done = predict_images(NAME, scans, tmp_path / f"out.{ending}", top=2)
        assert done == (12, 1)
        assert not list(tmp_path.glob("*.parts"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (tmp_path / "out.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    records = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert list(cells[0]) == list(records[0]) == [
        "image", "label_1", "index_1", "chance_1", "label_2", "index_2", "chance_2", "error",
    ]  # fmt: skip
    for line, cell, record in zip(lines, cells, records, strict=True):
        assert line["image"] == cell["image"] == record["image"]
        if "error" in line:
            assert line["error"] == cell["error"] == record["error"] and record["label_1"] is None
        else:
            assert [c["label"] for c in line["classes"]] == [cell["label_1"], record["label_2"]]
            assert line["classes"][0]["chance"] == pytest.approx(float(cell["chance_1"]))
            assert line["classes"][0]["chance"] == pytest.approx(record["chance_1"])


def test_a_run_that_was_broken_off_goes_on_and_ends_as_if_it_had_not_been(
    scans: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = Predictor.rows

    def rows(self: Predictor, pictures: Iterable[Placed]) -> Iterator[Row]:
        for row in original(self, pictures):
            seen.append(row.image)
            yield row
            if len(seen) == 7:
                raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "rows", rows)
    with pytest.raises(KeyboardInterrupt):
        predict_images(NAME, scans, tmp_path / "broken.csv", batch=4)
    assert not (tmp_path / "broken.csv").exists()
    assert predict_images(NAME, scans, tmp_path / "broken.csv", batch=3) == (12, 1)
    assert len(seen) == len(set(seen)) == 12
    predict_images(NAME, scans, tmp_path / "whole.csv")
    assert (tmp_path / "broken.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_features_are_what_the_classifier_reads(scans: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = predict_images(NAME, scans / "1", tmp_path / "out.jsonl", features=True)
    assert done == (6, 0)
    line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    model, x = zoo.create(NAME, pretrained=True), zoo.transform(NAME)(line["image"])
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)[0]
    torch.testing.assert_close(torch.tensor(line["features"]), expected, atol=1e-5, rtol=1e-5)


def test_a_deployed_model_answers_the_same_for_a_last_batch_of_any_size(scans: pathlib.Path) -> None:
    fast = predict_images(NAME, scans / "1", deploy="torch", batch=4, top=1)
    slow = predict_images(NAME, scans / "1", batch=4, top=1)
    assert isinstance(fast, list) and isinstance(slow, list)
    for one, other in zip(fast, slow, strict=True):
        assert one["classes"][0]["index"] == other["classes"][0]["index"]
        assert one["classes"][0]["chance"] == pytest.approx(other["classes"][0]["chance"], abs=1e-5)


def test_the_command_writes_a_file_and_tells_what_failed(
    scans: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    assert main(["predict", NAME, str(scans), "--out", str(out)]) == 1
    assert "12 rows, 1 without an answer" in capsys.readouterr().out
    assert main(["predict", NAME, str(scans), "--out", str(out)]) == 2
    assert "--force writes it anew" in capsys.readouterr().err
    assert main(["predict", NAME, str(scans), "--out", str(tmp_path / "out.xls")]) == 2
    assert "expected a file that ends in `.jsonl`, `.csv` or `.parquet`; found `.xls`" in capsys.readouterr().err


@pytest.mark.slow  # processes that import torch, killed again and again
def test_the_command_killed_at_random_moments_writes_every_row_once(tmp_path: pathlib.Path) -> None:
    images, _ = digits.held_out()
    (tmp_path / "scans").mkdir()
    for i in range(3000):
        Image.fromarray(images[i % len(images)]).save(tmp_path / "scans" / f"{i:04d}.png")
    command = [sys.executable, "-m", "zoo", "predict", NAME, "scans", "--top", "2", "--out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "whole.jsonl"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    draw, kills = random.Random(0), 0
    parts = tmp_path / "killed.jsonl.parts"
    while True:
        before = len(list(parts.glob("*.part")))
        process = subprocess.Popen([*command, "killed.jsonl"], cwd=tmp_path, env=environment)
        while process.poll() is None and len(list(parts.glob("*.part"))) <= before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL)
        if process.returncode == 0 or ((tmp_path / "killed.jsonl").exists() and not parts.exists()):
            break  # it was done, and at most killed while Python ended
        kills += 1
    assert kills > 2
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_decoder_that_raises_anything_costs_one_row(
    scans: pathlib.Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Picture.open

    def opened(picture: Picture, channels: int = 3) -> Any:
        if picture.name.endswith("03.png"):
            raise MemoryError("\x1b[31mred")
        return original(picture, channels)

    monkeypatch.setattr(Picture, "open", opened)
    pictures = pictures_of([scans / "1"])
    rows = list(predictor.rows(map(Placed, range(len(pictures)), pictures)))
    assert [bool(row.error) for row in rows] == [False, True, False, False, False, False]
    assert rows[1].error == "a picture that cannot be decoded: MemoryError: \\x1b[31mred"


def test_a_device_that_is_not_there_is_told_in_a_sentence(scans: pathlib.Path) -> None:
    with pytest.raises(zoo.InputError, match="expected a device that torch has here; found RuntimeError"):
        predict_images(NAME, scans, device="nowhere")


def test_an_option_that_there_is_not_is_told_in_a_sentence(scans: pathlib.Path) -> None:
    for option in ({"tpo": 3}, {"batch": 0}, {"top": "many"}):
        with pytest.raises(zoo.InputError, match="options are top, features, batch"):
            predict_images(NAME, scans, **option)
