"""What two processes hold of a net in training, replicated and sharded: `python -m tests.benchmarks sharding`, or by itself below torchrun."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoo.data.digits import held_out
from zoo.training import run
from zoo.training.trainer import Trainer

MODEL = "caformer_b36"
"""99 million parameters."""
SETTINGS = {
    "data.workers": 0, "data.batch_size": 8, "schedule.epochs": 1, "model.size": 64, "model.channels": 1, "model.start": "random",
}  # fmt: skip
PROCESSES = 2
MIB = 2**20


def report() -> Iterator[str]:
    """A table of MiB in each process: parameters, their average, gradients, what AdamW remembers, and the most that was resident.

    glibc is told to give larger blocks back as soon as they are free, or what was resident would be what it kept."""
    columns = [
        "",
        "parameters",
        "average",
        "gradients",
        "optimiser",
        "together",
        "before the first step",
        "peak resident",
    ]
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for name, sharded in (("replicated (DDP)", "false"), ("sharded (FSDP2)", "true")):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
        with tempfile.TemporaryDirectory() as folder:
            _write(pathlib.Path(folder, "data"))
            words = [sys.executable, *launcher, "-m", __spec__.name, folder, sharded]
            subprocess.run(words, check=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"})
            for path in sorted(pathlib.Path(folder, "out").glob("[0-9].json")):
                figures = json.loads(path.read_text())
                yield f"| {name}, process {path.stem} | " + " | ".join(f"{value:,.0f}" for value in figures) + " |"


def _write(folder: pathlib.Path) -> None:
    """Twenty pictures, which make two steps."""
    for number, image in enumerate(held_out()[0][:20]):
        path = folder / f"{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


class Measured(Trainer):
    """A training that is over before it judges anything, and says what it holds."""

    def prepare(self, resume: bool) -> None:
        super().prepare(resume)
        self.before = _peak()

    def _end_epoch(self) -> None:
        model = list(self.student.parameters())
        average = list(self.average.model.parameters()) if self.average is not None else []
        gradients = [parameter.grad for parameter in model if parameter.grad is not None]
        memory = [
            value for state in self.optimizer.state.values() for value in state.values() if torch.is_tensor(value)
        ]
        held = [sum(map(_bytes, tensors)) / MIB for tensors in (model, average, gradients, memory)]
        path = self.out / f"{self.share.rank}.json"
        path.write_text(json.dumps([*held, sum(held), self.before, _peak()]))
        self.accelerator.wait_for_everyone()
        raise SystemExit


def _bytes(tensor: Any) -> int:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.numel() * local.element_size()


def _peak() -> float:
    """The most that was resident so far, in MiB; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    folder, sharded = pathlib.Path(sys.argv[1]), sys.argv[2] == "true"
    run.Trainer = Measured  # type: ignore[misc]
    run.train(MODEL, folder / "data", folder / "out", settings=SETTINGS | {"engine.sharded": sharded})
