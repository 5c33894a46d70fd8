"""`zoo train` beside timm's own train.py: the same net, pictures and recipe, three seeds, in turns.

`python -m tests.benchmarks training --script train.py`, which is the file of that name in timm's repository. The pace is that of CPU time: what
a long run takes more than a short one, so that neither imports nor reports count, and other programs count little.
"""

from __future__ import annotations

import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tests.photographs import render

MODEL = "starnet_s050"
TRAINED, HELD_OUT, CLASSES = 320, 96, 3
SIDE, BATCH, LR, DECAY = 64, 32, 1e-3, 0.05
SHORT, LONG = 1, 9
"""Epochs."""
SEEDS = (0, 1, 2)
START = "from zoo._timm import import_timm; import_timm(); import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""timm's script, also where torchvision was built for another torch."""


class Training(NamedTuple):
    """CPU seconds and the most that was resident, in MiB; losses of the last epoch, of the training part and of the held-out one."""

    seconds: float
    peak: float
    loss: float
    held_out_loss: float


def report(script: str) -> Iterator[str]:
    """A line for each seed, and a table of means and ratios; above 1 the zoo is the faster, or the larger."""
    with tempfile.TemporaryDirectory() as home:
        folder = pathlib.Path(home)
        _write(folder / "data")
        runs: dict[str, list[tuple[Training, Training]]] = {"timm": [], "zoo": []}
        for seed in SEEDS:
            for name in runs:
                short, long = (_run(name, folder, script, epochs, seed) for epochs in (SHORT, LONG))
                runs[name].append((short, long))
                yield f"{name}, seed {seed}: {_pace(short, long):.1f} pictures a CPU second, {long}"
    last = {name: [long for _, long in pairs] for name, pairs in runs.items()}
    paces = {name: [_pace(*pair) for pair in pairs] for name, pairs in runs.items()}
    yield "| | timm's train.py | zoo train | |"
    yield "|---|---|---|---|"
    for title, field in (("loss of the last epoch", "loss"), ("held-out loss", "held_out_loss")):
        values = {name: [getattr(run, field) for run in last[name]] for name in last}
        gap = statistics.mean(values["zoo"]) - statistics.mean(values["timm"])
        yield f"| {title} | {_spread(values['timm'])} | {_spread(values['zoo'])} | {gap:+.4f} |"
    ratios = [ours / theirs for ours, theirs in zip(paces["zoo"], paces["timm"], strict=True)]
    yield f"| pictures a CPU second | {_spread(paces['timm'], 1)} | {_spread(paces['zoo'], 1)} | {_spread(ratios, 2)}x |"
    peaks = {name: [run.peak for run in last[name]] for name in last}
    ratios = [ours / theirs for ours, theirs in zip(peaks["zoo"], peaks["timm"], strict=True)]
    yield f"| peak resident, MiB | {_spread(peaks['timm'], 0)} | {_spread(peaks['zoo'], 0)} | {_spread(ratios, 2)}x |"


def _pace(short: Training, long: Training) -> float:
    """Pictures a CPU second, of which the loop looks at the held-out ones, too."""
    return (LONG - SHORT) * (TRAINED + HELD_OUT) / (long.seconds - short.seconds)


def _spread(values: list[float], digits: int = 4) -> str:
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _run(name: str, folder: pathlib.Path, script: str, epochs: int, seed: int) -> Training:
    out = folder / f"{name}-{epochs}-{seed}"
    command = _ours(folder / "data", out, epochs, seed) if name == "zoo" else _theirs(folder, out, script, epochs, seed)
    with open(folder / "log", "w+") as log:
        child = subprocess.Popen([sys.executable, *command], stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise RuntimeError((folder / "log").read_text()[-2000:])
    if name == "zoo":
        losses = [
            (epoch["loss"], epoch["held_out_loss"]) for epoch in json.loads(_last_json(folder / "log"))["history"]
        ]
    else:
        rows = list(csv.DictReader((out / "summary.csv").open()))
        losses = [(float(row["train_loss"]), float(row["eval_loss"])) for row in rows]
    return Training(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, *losses[-1])


def _last_json(log: pathlib.Path) -> str:
    text = log.read_text()
    return text[text.index("\n{") :]


def _ours(data: pathlib.Path, out: pathlib.Path, epochs: int, seed: int) -> list[str]:
    settings = {
        "model.start": "random", "model.size": SIDE, "schedule.epochs": epochs, "schedule.warmup": 0, "optimizer.lr": LR,
        "optimizer.weight_decay": DECAY, "optimizer.layer_decay": 1, "optimizer.ema": 0, "optimizer.clip": 1, "data.batch_size": BATCH,
        "data.workers": 1, "augment.scale": "[0.5, 1.0]", "augment.jitter": 0, "loss.label_smoothing": 0, "seed": seed,
        "model.drop_path_rate": 0,
    }  # fmt: skip
    sets = [part for path, value in settings.items() for part in ("--set", f"{path}={value}")]
    return ["-m", "zoo", "train", MODEL, "--data", str(data), "--out", str(out), "--json", *sets]


def _theirs(folder: pathlib.Path, out: pathlib.Path, script: str, epochs: int, seed: int) -> list[str]:
    options = {
        "--model": MODEL, "--num-classes": CLASSES, "--img-size": SIDE, "--epochs": epochs, "--warmup-epochs": 0, "--sched": "cosine",
        "--opt": "adamw", "--lr": LR, "--weight-decay": DECAY, "--clip-grad": 1, "--batch-size": BATCH, "--workers": 1, "--color-jitter": 0,
        "--smoothing": 0, "--seed": seed, "--device": "cpu", "--train-split": "train", "--val-split": "val", "--drop-path": 0,
        "--output": folder, "--experiment": out.name, "--train-interpolation": "bicubic", "--log-interval": 1000,
    }  # fmt: skip
    words = [str(part) for pair in options.items() for part in pair]
    flags = ["--scale", "0.5", "1.0", "--channels-last", "--sched-on-updates", "--no-prefetcher"]
    return ["-c", START, script, str(folder / "data"), *words, *flags]


def _write(data: pathlib.Path) -> None:
    """Rendered photographs of three classes, all of them JPEG."""
    draw = np.random.RandomState(0)
    for i in range(TRAINED + HELD_OUT):
        home = data / ("train" if i < TRAINED else "val") / f"class{i % CLASSES}"
        home.mkdir(parents=True, exist_ok=True)
        render(i % CLASSES, draw).save(home / f"{i:04}.jpg")
