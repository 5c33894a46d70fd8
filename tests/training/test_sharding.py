"""`engine.sharded`: two processes that hold a part of the net each learn what replicas do, and go on from what they kept."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import zoo
from tests.training import shades
from tests.training.test_processes import ROOT, command, environment, history
from zoo.errors import WeightsError
from zoo.training.loop import RunningAverage
from zoo.training.sharded_state import load_parts, save_parts
from zoo.training.state import Facts
from zoo.training.trainer import LAST_PARTS

SHARDED = ("--set", "engine.sharded=true")


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.mark.slow  # processes of torchrun
@pytest.mark.parametrize(
    ("model", "settings", "rel"),
    [
        ("gmlp_nano", ["model.lora=2"], 2e-5),
        ("moe_vit_nano", ["engine.checkpointing=true"], 2e-5),  # experts that idle in one process; losses by the ctx
        (
            "starnet_nano",
            ["model.batch_norm=sync", "engine.precision=bfloat16", "optimizer.name=sgd", "optimizer.lr=0.02", "optimizer.accumulate=2"],
            2e-3,
        ),
    ],
    ids=["adapters", "experts", "batch norms in bfloat16"],
)  # fmt: skip
def test_sharded_processes_learn_what_replicas_do(
    tmp_path: pathlib.Path, model: str, settings: list[str], rel: float
) -> None:
    data, options = shades.folder(tmp_path / "data"), sets(*settings)
    replicas = history(2, data, tmp_path / "replicas", model, *options)
    parts = history(2, data, tmp_path / "parts", model, *options, *SHARDED)
    for one, other in zip(replicas, parts, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=rel)
        assert other["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=rel)
    picture = zoo.transform(str(tmp_path / "parts"))(data / "dark" / "000.png")
    answers = [zoo.create(str(tmp_path / name))(picture) for name in ("replicas", "parts")]
    torch.testing.assert_close(answers[0], answers[1], rtol=20 * rel, atol=20 * rel)


@pytest.mark.slow
def test_a_sharded_run_that_was_killed_goes_on_in_another_number_of_processes(tmp_path: pathlib.Path) -> None:
    data = shades.folder(tmp_path / "data")
    options = [*SHARDED, "--resume", *sets("engine.save_minutes=0.0001", "schedule.epochs=6", "optimizer.name=sgd")]
    whole = history(2, data, tmp_path / "whole", shades.MODEL, *options)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    child = subprocess.Popen(
        [sys.executable, *words, *command(data, tmp_path / "broken", shades.MODEL, *options)],
        env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    record = tmp_path / "broken" / LAST_PARTS
    while not record.exists() or json.loads(record.read_bytes())["facts"]["step"] < 3:
        assert child.poll() is None
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    folder = record.with_name(json.loads(record.read_bytes())["folder"])
    assert len(list(folder.glob("*.safetensors"))) == len(list(folder.iterdir())) == 2, (
        "a file of each process, no pickle"
    )
    again = history(1, data, tmp_path / "broken", shades.MODEL, *options)
    assert [epoch["loss"] for epoch in again] == pytest.approx([epoch["loss"] for epoch in whole], rel=1e-4)
    assert [epoch["rate"] for epoch in again] == [epoch["rate"] for epoch in whole]


def learned(seed: int, steps: int) -> tuple[nn.Module, RunningAverage, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    optimizer = torch.optim.AdamW(
        [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[1].parameters(), "lr": 0.01}]
    )
    average = RunningAverage(net, 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        average.follow(net)
    return net, average, optimizer


def test_parts_that_were_kept_come_back_bit_by_bit(tmp_path: pathlib.Path) -> None:
    net, average, optimizer = learned(0, 3)
    optimizer.param_groups[0].update(lr=0.05, initial_lr=0.1)
    save_parts(tmp_path / "last.json", Facts("mine", step=3, losses=[0.5]), net, average, optimizer)
    other, its_average, its_optimizer = learned(1, 0)
    facts = load_parts(tmp_path / "last.json", other, its_average, its_optimizer)
    assert (facts.step, facts.losses, its_average.step) == (3, [0.5], 3)
    for one, two in ((net, other), (average.model, its_average.model)):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    first, second = optimizer.state_dict(), its_optimizer.state_dict()
    assert second["param_groups"][0]["lr"] == 0.05 and second["param_groups"][0]["initial_lr"] == 0.1
    assert all(
        torch.equal(first["state"][i][key], second["state"][i][key])
        for i in first["state"]
        for key in first["state"][i]
    )


def test_parts_that_are_lost_or_of_another_net_are_told(tmp_path: pathlib.Path) -> None:
    save_parts(tmp_path / "last.json", Facts("mine", step=3), *learned(0, 1))
    other = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6))
    with pytest.raises(WeightsError, match="expected the state of this very training"):
        load_parts(tmp_path / "last.json", other, None, torch.optim.SGD(other.parameters(), lr=0.1))
    for file in (tmp_path / "last-000003").iterdir():
        file.write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="expected the state of this very training"):
        load_parts(tmp_path / "last.json", *learned(0, 1))
    (tmp_path / "last.json").write_text("{")
    with pytest.raises(WeightsError, match="expected the record of a sharded training"):
        load_parts(tmp_path / "last.json", *learned(0, 1))
