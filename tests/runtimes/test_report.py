"""Reports as text, as tables, as JSON and back; and choices that are remembered."""

from __future__ import annotations

import logging
import pathlib

import pytest
import torch

import zoo
from zoo.runtimes import choices
from zoo.runtimes.choices import Choice, recall, remember, weights_hash
from zoo.runtimes.report import COLUMNS, Report, Tried, report_from, summary_of

CHOSEN = Tried(
    runtime="onnxruntime", precision="float32", outcome="chosen", error=1.2e-6, p50_ms=2.5, low_ms=2.4, high_ms=2.6, speed=2.0,
    speed_low=1.9, speed_high=2.1, verdict="clean", compile_s=1.25, size_bytes=4_649_060,
)  # fmt: skip
REFUSED = Tried(
    runtime="openvino", precision="bfloat16", outcome="refused", error=0.01, loss=0.01, loss_low=0.004, loss_high=0.02,
    loss_of="768 answers", reason="it may lose 1.00 points",
)  # fmt: skip
SUMMARY = "starnet_nano runs in onnxruntime, float32: 2.5 ms at (1, 1, 32, 32) on 2 threads, 2.00 times as fast as torch's deploy form"


def test_the_summary_says_what_was_chosen_and_how_fast_it_is() -> None:
    assert summary_of(CHOSEN, "starnet_nano", 2, "(1, 1, 32, 32)") == SUMMARY


def test_a_report_prints_as_a_table_under_its_summary() -> None:
    lines = str(Report([CHOSEN, REFUSED], SUMMARY)).splitlines()
    assert lines[0] == SUMMARY and len(lines) == 4
    assert lines[1].split() == " ".join(COLUMNS).split()
    assert "2.4 to 2.6" in lines[2] and "4.4 MiB" in lines[2] and "2.00x" in lines[2]
    assert "1.00 (0.40 to 2.00) points" in lines[3] and lines[3].endswith("it may lose 1.00 points")


def test_rows_are_mappings_with_all_columns() -> None:
    rows = [dict(row) for row in Report([CHOSEN, REFUSED], SUMMARY)]
    assert rows[0].keys() == rows[1].keys() and rows[1]["p50_ms"] is None


def test_a_report_is_the_same_when_it_comes_back_from_json() -> None:
    report = Report([CHOSEN, REFUSED], SUMMARY)
    again = report_from(report.plain(), "report.json")
    assert list(again) == list(report) and again.summary == SUMMARY and again.chosen == CHOSEN


def test_foreign_rows_that_are_none_are_refused_with_their_place() -> None:
    plain = Report([CHOSEN], SUMMARY).plain()
    plain["rows"][0]["p50_ms"] = "fast"
    with pytest.raises(zoo.InputError, match=r"\$\.rows\[0\]\.p50_ms"):
        report_from(plain, "report.json")


@pytest.fixture
def data(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    return tmp_path / "choices"


def test_a_choice_is_remembered(data: pathlib.Path) -> None:
    choice = Choice("starnet_nano", "abc", SUMMARY, [CHOSEN, REFUSED])
    assert recall("key") is None
    remember("key", choice)
    assert recall("key") == choice and choice.candidate == ("onnxruntime", "float32")


@pytest.mark.parametrize("damage", [b"", b"{", b"[1, 2]", b'{"rows": 3}', b"\xff\xfe"])
def test_a_damaged_choice_is_told_of_and_made_anew(
    data: pathlib.Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    remember("key", Choice("starnet_nano", "abc", SUMMARY, [CHOSEN]))
    (data / "key.json").write_bytes(damage)
    with caplog.at_level(logging.WARNING, "zoo"):
        assert recall("key") is None
    assert "the choice is made anew" in caplog.text


def test_a_choice_of_nothing_is_none(data: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    remember("key", Choice("starnet_nano", "abc", SUMMARY, [REFUSED]))
    assert recall("key") is None and "says of no row" in caplog.text


def test_a_folder_that_takes_nothing_is_told_of(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(choices, "folder", lambda: tmp_path / "file" / "choices")
    remember("key", Choice("starnet_nano", "abc", SUMMARY, [CHOSEN]))
    assert "the choice is not kept" in caplog.text


def test_weights_are_known_by_every_bit() -> None:
    model = zoo.create("starnet_nano", pretrained=True)
    before = weights_hash(model)
    assert weights_hash(zoo.create("starnet_nano", pretrained=True)) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert weights_hash(model) != before
