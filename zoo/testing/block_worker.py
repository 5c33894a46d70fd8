"""One fresh process that times blocks by themselves: `python -m zoo.testing.block_worker`, as `zoo.measure.worker` does models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from zoo.measure.clock import Clock, CpuClock, CudaClock
from zoo.measure.latency import Runtime
from zoo.measure.worker import Answer, sampled, serve
from zoo.testing.block_cases import DIM, Subject

POSITIONS = 196
"""Points of a set, as many as an image or a sequence here has positions."""


class BlockJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """One figure to find: a block, and how to run it."""

    key: str
    block: str
    runtime: Runtime
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def subject(self) -> str:
        """What is run."""
        return self.block

    @property
    def title(self) -> str:
        """The whole job in words."""
        return f"{self.block} {self.runtime.key}"


class BlockPlan(msgspec.Struct, frozen=True):
    """What a worker is told. `seconds` is the time for the samples of one job."""

    jobs: list[BlockJob]
    seconds: float
    files: list[str] = []
    """The user's own files of blocks, loaded first."""


def work(plan: BlockPlan) -> Iterator[Answer]:
    """One answer for each job, as soon as there is one."""
    from zoo.catalog.local_files import load_file

    for file in plan.files:
        load_file(file)
    anchors: dict[str, Callable[[], Any]] = {}
    for job in plan.jobs:
        torch.set_num_threads(job.runtime.threads)
        clock: Clock = CudaClock() if job.device == "cuda" else CpuClock()
        try:
            if job.device not in anchors:
                anchors[job.device] = anchor(job.device)
            call = call_alone(Subject(job.block), job.device)
            with torch.inference_mode():
                sample = sampled(call, anchors[job.device], clock, plan.seconds, job.device)
            yield Answer(job.key, sample)
        except Exception as error:  # whatever a block raises is its own; the others go on
            yield Answer(job.key, None, f"{type(error).__name__}: {error}".splitlines()[0])


def call_alone(subject: Subject, device: str = "cpu") -> Callable[[], Any]:
    """A pass of one input through a block as it is trained, in eval mode and with channels last."""
    space = subject.spaces[0]
    module = channels_last(subject.build(space, device=device))
    x = subject.input(space, batch=1, points=POSITIONS).to(device)
    return subject.call_of(module, x, subject.place_to_write())


def anchor(device: str) -> Callable[[], Any]:
    """The convolution that every block is timed beside: `zoo.measure.block_latency.ANCHOR`."""
    torch.manual_seed(0)
    conv = channels_last(nn.Conv2d(DIM, DIM, 3, padding=1, device=device).eval())
    x = torch.randn(1, DIM, 14, 14, device=device).contiguous(memory_format=torch.channels_last)
    return lambda: conv(x)


def channels_last(module: nn.Module) -> nn.Module:
    """The module, with the kernels of pictures and of clips as inputs have their channels."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
    return module


if __name__ == "__main__":
    sys.exit(serve(BlockPlan, work))
