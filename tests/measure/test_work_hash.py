"""Which changes of a model make its measurements stale."""

from __future__ import annotations

import pathlib

import msgspec
import pytest

import zoo
from zoo.build.builder import build
from zoo.measure import work_hash as module
from zoo.measure.bench import work_today
from zoo.measure.load_counter import load_of
from zoo.measure.work_hash import work_hash, work_of


@pytest.mark.parametrize(
    ("name", "form"), [("starnet_nano", "train"), ("starnet_nano", "deploy"), ("mamba_nano", "train")]
)
def test_the_work_that_ships_is_that_of_the_model(name: str, form: str) -> None:
    assert work_of(name, form) == work_hash(load_of(build(zoo.spec(name)), form)) == work_today(name, form)


def test_one_more_copy_is_other_work() -> None:
    load = load_of(build(zoo.spec("starnet_nano")))
    assert work_hash(load) != work_hash(msgspec.structs.replace(load, copied=load.copied + 1))


def test_a_file_of_ones_own_is_counted(tmp_path: pathlib.Path) -> None:
    text = zoo.spec("starnet_nano").to_json()
    for name, words in {"same.json": text, "other.json": text.replace("relu6", "gelu")}.items():
        (tmp_path / name).write_text(words)
    assert "relu6" in text
    assert work_today(str(tmp_path / "same.json"), "train") == work_of("starnet_nano", "train")
    assert work_today(str(tmp_path / "other.json"), "train") != work_of("starnet_nano", "train")


def test_another_kernel_is_other_work_for_scans_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scans, convolves = (load_of(build(zoo.spec(name))) for name in ("mamba_nano", "starnet_nano"))
    before = work_hash(scans), work_hash(convolves)
    monkeypatch.setattr(module, "_kernels", lambda: b"another")
    assert work_hash(scans) != before[0] and work_hash(convolves) == before[1]
