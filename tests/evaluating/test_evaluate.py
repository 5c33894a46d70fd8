"""`zoo evaluate` on the held-out digits, whose figures are known."""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.artifacts.lockfile import read_lock
from zoo.cli import main
from zoo.data import digits
from zoo.errors import InputError
from zoo.evaluating.corruptions import corruptions
from zoo.evaluating.evaluate import evaluate
from zoo.evaluating.judged import OfOneClass
from zoo.evaluating.report import page
from zoo.evaluating.sets import real_labels, sets_of
from zoo.weights.manifest import read_manifest

NAME = "starnet_nano"
PER_CLASS = 6


@pytest.fixture(autouse=True)
def own_data(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "zoo"))


def write(folder: pathlib.Path, most: int = 10**6) -> pathlib.Path:
    """Held-out scans in folders called like digits, `most` of each."""
    images, labels = digits.held_out()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        if int((labels[:i] == label).sum()) < most:
            path = folder / str(label) / f"scan_{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write(tmp_path_factory.mktemp("data") / "My Digits", PER_CLASS)


@pytest.fixture(scope="module")
def all_scans(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write(tmp_path_factory.mktemp("data") / "digits")


def metric_of(name: str) -> tuple[int, int]:
    manifest = read_manifest(zoo.catalog.weights_manifest(name, "digits"))
    (figure,) = manifest.metrics.values()
    return figure.correct or 0, figure.n or 0


def test_the_figure_of_shipped_weights_is_reproduced(all_scans: pathlib.Path) -> None:
    (score,) = evaluate(NAME, all_scans, metrics=["top1"]).scores
    figure = score.figures["top1"]
    assert (figure.correct, figure.n) == metric_of(NAME)
    assert (score.data, score.matched, score.among, score.weights) == ("digits", "name", 10, f"{NAME}.digits")
    assert sum(row.pictures for row in score.classes) == figure.n
    assert sum(round(row.recall * row.pictures) for row in score.classes) == figure.correct


def test_pictures_that_cannot_be_read_are_left_out_and_named(scans: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(scans, tmp_path / "some")
    (tmp_path / "some" / "3" / "bad.png").write_bytes(b"no picture")
    found = evaluate(NAME, tmp_path / "some", metrics=["top1"])
    assert (found.scores[0].pictures, found.scores[0].unreadable) == (10 * PER_CLASS, 1)
    ((name, reason),) = found.unreadable.items()
    assert name.endswith("bad.png") and reason.endswith("found a file that is no image")
    with pytest.raises(InputError, match="a file that is no image"):
        evaluate(NAME, tmp_path / "some", metrics=["top1"], strict=True)


def test_models_are_compared_on_the_same_pictures(scans: pathlib.Path) -> None:
    found = evaluate([NAME, "gmlp_nano"], scans, metrics=["top1"])
    (pair,) = found.pairs
    ours, theirs = (score.figures["top1"].correct or 0 for score in found.scores)
    assert (pair.model, pair.other, pair.only_model - pair.only_other) == ("gmlp_nano", NAME, theirs - ours)
    text = page(found)
    assert "## In pairs" in text and "| gmlp\\_nano" not in text and f"{NAME}.digits" in text


def test_a_subset_is_judged_among_its_own_classes(scans: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for label in "38":
        shutil.copytree(scans / label, tmp_path / "two" / label)
    free = evaluate("gmlp_nano", tmp_path / "two", metrics=["top1"]).scores[0]
    bound = evaluate("gmlp_nano", tmp_path / "two", metrics=["top1"], subset=True).scores[0]
    assert (free.among, bound.among) == (10, 2)
    assert bound.figures["top1"].value >= free.figures["top1"].value


def test_corrupted_sets_are_judged_one_by_one(scans: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for corruption, severity in (("fog", "1"), ("fog", "3"), ("snow", "5")):
        shutil.copytree(scans, tmp_path / "c" / corruption / severity)
    names = [each.name for each in sets_of(tmp_path / "c", "c")]
    assert names == ["c/fog@1", "c/fog@3", "c/snow@5"]


def test_real_labels_count_every_right_class_and_leave_out_pictures_without_one(
    scans: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    everything = {path.name: [*range(9), "9"] for path in scans.rglob("*.png")}
    (tmp_path / "real.json").write_text(json.dumps(everything | {sorted(everything)[0]: []}))
    figure = evaluate(NAME, scans, metrics=["top1"], real=tmp_path / "real.json").scores[0].figures["real_top1"]
    assert (figure.correct, figure.n) == (10 * PER_CLASS - 1, 10 * PER_CLASS - 1)


def test_a_list_of_real_labels_goes_by_the_number_in_the_file_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real.json").write_text("[[], [7, 8]]")
    real = real_labels(tmp_path / "real.json")
    assert real.of("val/n1/ILSVRC2012_val_00000002.JPEG") == [7, 8]
    assert real.of("ILSVRC2012_val_00000001.JPEG") == real.of("ILSVRC2012_val_00000009.JPEG") == real.of("x.png") == []
    (tmp_path / "real.json").write_text("{}")
    with pytest.raises(InputError, match="expected a list of lists of classes"):
        real_labels(tmp_path / "real.json")


def test_a_model_that_answers_nothing_but_equal_numbers_or_none_is_right_by_no_accident(scans: pathlib.Path) -> None:
    judged = object.__new__(OfOneClass)
    judged.subset = False
    truth = torch.arange(4)
    for value, right in ((0.0, 1), (float("nan"), 0)):
        _, ranks, sure = judged.ranked(torch.full((4, 4), value), truth)
        assert int((ranks == 0).sum()) == right and not np.isnan(sure.numpy()).any()


def test_find_ranks_by_what_was_measured_here(scans: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["evaluate", NAME, "gmlp_nano", "--data", str(scans), "--metric", "top1,calibration_error", "--json"]) == 0
    )
    scores = json.loads(capsys.readouterr().out)["scores"]
    for metric, worse in (("my-digits/top1", False), ("my-digits/calibration_error", True)):
        rows = zoo.find(metric=metric)
        assert {row.name for row in rows} == {NAME, "gmlp_nano"}
        values = [row.figure.value for row in rows if row.figure]
        assert values == sorted(values, reverse=not worse)
    expected = {row["model"]: round(100 * row["figures"]["top1"]["value"], 2) for row in scores}
    assert {row.name: row.figure.value for row in zoo.find(metric="my-digits/top1") if row.figure} == expected


def test_the_command_prints_and_writes_a_page(
    scans: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["evaluate", NAME, "--data", str(scans), "--no-record", "--out", str(tmp_path / "report.md")])
    out = capsys.readouterr().out
    assert code == 0 and "macro f1" in out and "Intervals are of 95 %" in out
    assert f"## Classes of {NAME}.digits on my-digits" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "zoo" / "evaluations").exists()


def test_a_figure_of_shipped_weights_is_proved_into_the_lock(
    all_scans: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pin", f"{NAME}.digits", "--prove", str(all_scans)]) == 0
    assert "as published" in capsys.readouterr().out
    (proof,) = read_lock("zoo.lock")[f"{NAME}.digits"].proofs
    assert (proof.correct, proof.n) == metric_of(NAME)
    assert (
        proof.reproduced and proof.metric == "digits/top1@32" and proof.claimed == pytest.approx(proof.value, abs=1e-6)
    )
    zoo.lock([f"{NAME}.digits", "gmlp_nano"])
    assert read_lock("zoo.lock")[f"{NAME}.digits"].proofs == (proof,)


def test_a_figure_that_is_not_reached_is_told_by_the_exit_code(
    scans: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scans, tmp_path / "turned")
    for path in (tmp_path / "turned").rglob("*.png"):
        with Image.open(path) as image:
            turned = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        turned.save(path)
    monkeypatch.chdir(tmp_path)
    assert main(["pin", f"{NAME}.digits", "--prove", str(tmp_path / "turned")]) == 1
    assert "not what is published" in capsys.readouterr().out
    assert read_lock("zoo.lock")[f"{NAME}.digits"].proofs[0].reproduced is False


@pytest.mark.slow  # the package takes seconds to be imported
def test_corruptions_are_made_of_the_crop_and_are_the_same_each_time(scans: pathlib.Path) -> None:
    pytest.importorskip("imagecorruptions")
    found = [evaluate(NAME, scans, metrics=["top1"], corrupt="gaussian_noise@1,contrast@5") for _ in range(2)]
    names = [score.data for score in found[0].scores]
    assert names == ["my-digits", "my-digits/gaussian_noise@1", "my-digits/contrast@5"]
    values = [score.figures["top1"].value for score in found[0].scores]
    assert values == [score.figures["top1"].value for score in found[1].scores]
    assert values[0] >= values[1] > values[2]


def test_a_corruption_that_is_none_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.SimpleNamespace(get_corruption_names=lambda which="common": ["fog", "snow"])
    monkeypatch.setitem(sys.modules, "imagecorruptions", package)
    with pytest.raises(InputError, match="with one of `fog` or `snow`; found `fgo@3`; nearest `fog`"):
        corruptions("fgo@3")
    assert corruptions("snow@2,fog") == [("snow", 2), *(("fog", severity) for severity in range(1, 6))]
    assert len(corruptions("all")) == 10
