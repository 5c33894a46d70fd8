"""A whole study, small: from a user's file to a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo
from zoo.cli import main
from zoo.data import digits
from zoo.errors import InputError
from zoo.testing.isolation import own_registrations
from zoo.training.ablation.report import page, write

BLOCK = """
import torch
from torch import nn
import blocks

@blocks.block("halves", kind="token_mixer", layout="BCHW", abilities=("noncausal", "any_resolution"))
class Halves(nn.Module):
    '''y = the mean of x and its neighbour.'''

    def forward(self, x):
        return (x + x.roll(1, 3)) / 2
"""


def test_a_file_of_blocks_is_studied_and_told_as_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = digits.training_set()
    few = images[:200], labels[:200]  # eighteen runs learn from them
    monkeypatch.setattr(digits, "training_set", lambda: few)
    (tmp_path / "halves.py").write_text(BLOCK)
    with own_registrations():
        code = main(
            ["study", str(tmp_path / "halves.py"), "--hosts", "linear_vit_nano,vim_nano", "--against", "identity,depthwise_conv",
             "--seeds", "2", "--minutes", "0.01", "--out", str(tmp_path / "out"), "--json"]
        )  # fmt: skip
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["block"] == "local/halves" and found["length"]["linear_vit_nano"] == 1
    runs = {run["block"]: run for run in found["runs"] if run["host"] == "linear_vit_nano"}
    assert set(runs) == {"local/halves", "identity", "depthwise_conv"}
    assert all(len(run["scores"]) == 2 and 0 <= min(run["scores"]) <= 1 for run in runs.values())
    costs = [run["macs"] for run in runs.values()]
    assert max(costs) / min(costs) <= 1.04
    assert {one["other"] for one in found["comparisons"]} == {"identity", "depthwise_conv"}
    assert [
        (one["host"], "no channel mixer" in one["why"]) for one in found["refused"] if one["block"] != "local/halves"
    ]
    lengths = {(row["block"], row["length"]) for row in found["growth"]}
    assert ("depthwise_conv", 4096) in lengths and ("local/halves", 256) in lengths
    assert json.loads((tmp_path / "out" / "study.json").read_text()) == found
    assert "<script" not in (tmp_path / "out" / "study.html").read_text()


def test_a_bad_study_request_is_a_sentence() -> None:
    with pytest.raises(InputError, match="at least 2: one run says nothing of the next; found 1"):
        zoo.study("pooling", ["convformer_nano"], seeds=1)
    with pytest.raises(InputError, match="expected a block of kind token_mixer"):
        zoo.study("linear_head", ["convformer_nano"])
    with pytest.raises(InputError, match="scans of 32 x 32 in 10 classes, or bytes; found another input"):
        zoo.study("pooling", ["convformer_s18"])


def test_a_page_escapes_what_it_is_given(tmp_path: Path) -> None:
    from zoo.training.ablation.study import Refused, Study

    made = Study("zoo.study/1", "<b>", "macs", 2, {"a": 1}, [], [], [Refused("a", "c", "<i>")], [], 1.0)
    assert "<b>" not in page(made) and "&lt;i&gt;" in page(made)
    assert [path.name for path in write(made, tmp_path)] == ["study.json", "study.html"]


def test_the_time_is_shared_by_the_clock_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clock that a run moves: by its length, ten times as fast in the first host as was timed there."""
    from zoo.training.ablation import study as module

    clock = [0.0]

    def run(spec: zoo.Spec, setting: module.Setting, tuning: bool = False) -> float:
        clock[0] += setting.length * (10 if spec.name == "convformer_nano" else 1)
        return float(setting.seed)

    monkeypatch.setattr(module, "seconds_of", lambda spec: 1.0)
    monkeypatch.setattr(module, "score", run)
    monkeypatch.setattr(module, "growth", lambda *arguments: [])
    monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: clock[0])}))
    told: list[tuple[str, float]] = []
    found = zoo.study(
        "pooling", ["convformer_nano", "linear_vit_nano", "vim_nano"], ["identity"], seeds=2, minutes=2,
        told=lambda what, share: told.append((what, share)),
    )  # fmt: skip
    assert found.length == {"convformer_nano": 6}  # 108 s for three hosts, two nets and 2.75 runs each
    over = {one.host for one in found.refused if one.why == "the 2 minutes were over"}
    assert over <= {"linear_vit_nano", "vim_nano"} and "linear_vit_nano" in over
    shares = [share for _, share in told]
    assert (
        shares == sorted(shares)
        and told[-1] == ("done", 1.0)
        and ("pooling in convformer_nano: run 2 of 2") in dict(told)
    )


def test_progress_tells_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    from zoo.cli.commands.studying import _tell

    _tell(10, "pooling in vim_nano: run 1 of 5", 0.25)
    _tell(10, "done", 1.0)
    assert capsys.readouterr().err == "  25%  pooling in vim_nano: run 1 of 5; at most 7:30 left\n 100%  done\n"
