"""Trainings in processes of their own: several that share each batch, and one that is killed at moments that nobody chose."""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import photographs
from tests.training import shades

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = ["schedule.epochs=3", "data.batch_size=8", "data.workers=1"]


def command(data: pathlib.Path, out: pathlib.Path, model: str, *options: str) -> list[str]:
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    return ["-m", "zoo", "train", model, "--data", str(data), "--out", str(out), "--json", *sets, *options]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def history(processes: int, data: pathlib.Path, out: pathlib.Path, model: str, *options: str) -> Any:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    words = [sys.executable, *launcher, *command(data, out, model, *options)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["history"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [("gmlp_nano", []), ("starnet_nano", ["model.batch_norm=sync", "optimizer.name=sgd", "optimizer.lr=0.02"])],
    ids=["layer norms", "batch norms"],
)
def test_two_and_four_processes_learn_what_one_does(tmp_path: pathlib.Path, model: str, settings: list[str]) -> None:
    """Of batch norms with SGD: biases before them have gradients of rounding alone, of which AdamW makes whole steps."""
    data, curves = shades.folder(tmp_path / "data"), []
    for processes in (1, 2, 4):
        options = [part for setting in settings for part in ("--set", setting)]
        curves.append(history(processes, data, tmp_path / str(processes), model, *options))
    for one, *others in zip(*curves, strict=True):
        for other in others:
            assert other["loss"] == pytest.approx(one["loss"], rel=2e-5)
            assert other["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "first", "second"),
    [("loss", "nan at step 3", "nan at step 3"), ("picture", "one that is gone", "found nothing")],
)
def test_what_one_of_two_processes_loses_ends_both_with_a_sentence(
    tmp_path: pathlib.Path, lost: str, first: str, second: str
) -> None:
    data, script = shades.folder(tmp_path / "data"), str(pathlib.Path(__file__).with_name("losing.py"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = [
        subprocess.Popen(
            [sys.executable, script, lost, *command(data, tmp_path / "RUN", shades.MODEL)[2:]],
            env=environment() | meeting | {"RANK": rank, "LOCAL_RANK": rank}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = ["".join(child.communicate(timeout=120)) for child in children]
    assert [child.returncode for child in children] == [2, 2], said
    assert first in said[0] and second in said[1] and "Traceback" not in "".join(said), said


@pytest.mark.slow
def test_a_process_killed_at_twenty_random_moments_ends_bit_equal(tmp_path: pathlib.Path) -> None:
    data = shades.folder(tmp_path / "data", 40)
    options = (
        "--resume",
        "--set",
        "engine.save_minutes=0.002",
        "--set",
        "augment.mixup=0.3",
        "--set",
        "schedule.epochs=20",
    )
    history(1, data, tmp_path / "whole", shades.MODEL, *options)
    draw, kills = random.Random(0), 0
    words = [sys.executable, *command(data, tmp_path / "broken", shades.MODEL, *options)]
    for _ in range(20):
        child = subprocess.Popen(
            words, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for line in child.stderr:  # type: ignore[union-attr]
            if "pictures of" in line:  # the first step comes now
                break
        time.sleep(draw.uniform(0.0, 1.2))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    assert kills >= 10
    history(1, data, tmp_path / "broken", shades.MODEL, *options)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_four_hundred_photographs_become_a_model_that_is_right_on_97_of_100(tmp_path: pathlib.Path) -> None:
    """From an embedded nano that knows grey digits, by the shipped recipe."""
    photographs.write(tmp_path / "data")
    words = ["--set", "model.channels=3", "--set", "model.size=64"]
    call = [
        sys.executable,
        "-m",
        "zoo",
        "train",
        "mobilenetv4_nano",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "RUN"),
        "--json",
    ]
    done = subprocess.run([*call, *words], capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["unreadable"]) == 5
    assert result["value"] >= 0.97, result
