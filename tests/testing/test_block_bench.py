"""Blocks by themselves, timed in fresh processes: what runs, what a row says, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

import blocks
from tests.measure.rows import sample
from zoo import cli
from zoo.errors import InputError
from zoo.measure.block_latency import ANCHOR
from zoo.measure.device import Device, Fingerprint
from zoo.measure.latency import Runtime
from zoo.measure.store import Store, read_rows, shipped_blocks
from zoo.measure.worker import Answer
from zoo.testing import block_bench as module
from zoo.testing.block_bench import jobs_for, run
from zoo.testing.block_cases import Subject
from zoo.testing.block_worker import BlockJob, BlockPlan, call_alone

HERE = Device("cpu", "Test", "test", "avx2", 2, 8.0, False, Fingerprint(100.0, 10.0, 1.0))


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setattr("zoo.measure.store.SHIPPED_BLOCKS", tmp_path / "none.jsonl")
    monkeypatch.setattr("zoo.measure.this_device.this_device", lambda kind="cpu": HERE)
    monkeypatch.setattr(module, "this_device", lambda kind="cpu": HERE)
    with Store() as store:
        yield store


class Workers:
    """Stands in for worker processes, each of which takes `waited` of its own time."""

    def __init__(self, waited: float = 1.0):
        self.waited, self.asked = waited, list[str]()

    def __call__(self, plan: BlockPlan) -> Iterator[Answer]:
        for job in plan.jobs:
            self.asked.append(job.block)
            found = msgspec.structs.replace(sample([1.0] * 3, self.waited), torch=str(torch.__version__))
            yield Answer(job.key, found)


def test_a_worker_times_blocks_and_one_that_fails_does_not_stop_it(held: Store) -> None:
    jobs = jobs_for(["mlp", "core/sum@1", "mlp"])
    broken = BlockJob("broken", "core/no_such_block@1", Runtime())
    found = {answer.key: answer for answer in module._answers(BlockPlan([jobs[0], broken, jobs[1]], 0.01))}
    assert found["broken"].error.startswith("BlockError: no block `core/no_such_block@1`")
    for job in jobs:
        taken = found[job.key].sample
        assert taken is not None and min(taken.ms) > 0 and len(taken.anchor_ms) >= 6


def test_a_row_says_what_was_run_and_how_it_compares(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_answers", Workers())
    (row,) = run(jobs_for(["mlp"]), store=held)
    assert (row.block, row.device, row.input, row.anchor) == ("core/mlp@1", HERE.id, [1, 64, 14, 14], ANCHOR)
    assert (row.params, row.macs) == (64 * 256 * 2 + 256 + 64, 196 * 64 * 256 * 2)
    assert (row.p50_ms, row.ratio, row.verdict, row.is_stale) == (1.0, 0.5, "clean", False)
    assert held.block_rows(block="core/mlp@1") == [row] and held.rows(shipped=False) == []
    assert msgspec.structs.replace(row, source="0" * 12).is_stale


def test_a_run_goes_on_with_what_is_missing(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers()
    monkeypatch.setattr(module, "_answers", workers)
    list(run(jobs_for(["mlp"]), store=held))
    rows = list(run(jobs_for(["mlp", "gelu"]), resume=True, store=held))
    assert [row.block for row in rows] == ["core/mlp@1", "core/gelu@1"]
    assert workers.asked == ["core/mlp@1"] * 5 + ["core/gelu@1"] * 5


def test_a_contended_row_is_measured_once_more_and_says_so(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2.0)
    monkeypatch.setattr(module, "_answers", workers)
    (row,) = run(jobs_for(["mlp"]), store=held)
    assert row.verdict == "contended" and len(workers.asked) == 10


def test_a_block_that_fails_is_named_behind_the_rows_of_the_others(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(plan: BlockPlan) -> Iterator[Answer]:
        for job in plan.jobs:
            yield Answer(job.key, None, "ValueError: no") if "gelu" in job.block else Answer(job.key, sample([1.0]))

    monkeypatch.setattr(module, "_answers", answers)
    with pytest.raises(InputError, match=r"core/gelu@1\n    expected a block that runs; found ValueError: no"):
        list(run(jobs_for(["gelu", "mlp"]), store=held))
    assert [row.block for row in held.block_rows()] == ["core/mlp@1"]


@pytest.mark.parametrize("kind", ["merge", "view", "router", "wiring", "head", "embed", "stem"])
def test_a_block_of_every_kind_runs_by_itself(kind: str) -> None:
    for name in blocks.list_blocks(kind=kind)[:2]:
        with torch.inference_mode():
            call_alone(Subject(name))()


@pytest.mark.slow  # builds every block
def test_every_block_of_the_core_runs_by_itself() -> None:
    for name in (name for name in blocks.list_blocks() if "/" not in name):
        with torch.inference_mode():
            call_alone(Subject(name))()


def test_the_command_prints_a_table_and_exports_clean_rows(
    held: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_answers", Workers())
    out = tmp_path / "blocks.jsonl"
    assert cli.main(["bench", "--blocks", "mlp", "gel*", "--export", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "core" not in printed and "1x64x14x14" in printed and f"anchor: {ANCHOR}" in printed
    found = read_rows(out)
    assert found.devices == [HERE] and [row.block for row in found.blocks] == ["core/gelu@1", "core/mlp@1"]
    assert cli.main(["blocks", "mlp"]) == 0
    assert f"by itself: 1 ms (1 to 1), 0.5 times a {ANCHOR}; input 1x64x14x14" in capsys.readouterr().out
    assert cli.main(["blocks", "mlp", "--json"]) == 0
    assert [(row["p50_ms"], row["stale"]) for row in json.loads(capsys.readouterr().out)["latency"]] == [(1.0, False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mpl"], "no block `mpl`"),
        (["no_*_block"], "no_*_block expected a pattern that some block matches; found none"),
        (
            ["mlp", "--dtype", "bfloat16", "--all"],
            "--blocks expected blocks in torch, one float32 input at a time, as they are trained; found --all --dtype;",
        ),
    ],
)
def test_options_that_mean_nothing_are_sentences(
    arguments: list[str], message: str, held: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--blocks", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_block_of_which_nothing_is_known_says_what_would_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("zoo.measure.store.SHIPPED_BLOCKS", tmp_path / "none.jsonl")
    assert cli.main(["blocks", "gelu"]) == 0
    assert "by itself: not timed yet; `zoo bench --blocks gelu` does" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()


def test_shipped_rows_are_clean_and_of_known_blocks_and_devices() -> None:
    found = shipped_blocks()
    devices = {device.id for device in found.devices}
    assert len({row.id for row in found.blocks}) == len(found.blocks) and found.rows == []
    for row in found.blocks:
        assert blocks.describe(row.block).id == row.block
        assert (row.verdict, row.device in devices, row.processes >= 5) == ("clean", True, True)
