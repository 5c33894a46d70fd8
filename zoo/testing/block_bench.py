"""Measuring blocks by themselves, in fresh processes: `zoo bench --blocks` is this.

Each block has the parameters and the input that the conformance checks give it (`zoo.testing.block_cases`): 64 channels on 14 x 14
positions or 196 tokens, stems 3 on 32 x 32. What it takes there is compared with one convolution that everybody knows.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from blocks.registry import describe
from zoo import __version__
from zoo.measure.bench import is_of_today
from zoo.measure.block_latency import BlockLatency, compose
from zoo.measure.latency import MIN_PROCESSES, Runtime, Sample
from zoo.measure.op_counter import EXACT
from zoo.measure.processes import Bench, Progress, answers_of, usual
from zoo.measure.source_hash import source_hash
from zoo.measure.store import Store, newest
from zoo.measure.this_device import this_device
from zoo.measure.worker import Answer
from zoo.testing.block_cases import Subject
from zoo.testing.block_worker import POSITIONS, BlockJob, BlockPlan
from zoo.testing.counting import counts_of

SECONDS = 0.1
"""Of samples, for each block and process: five processes go through 361 blocks in six minutes."""


def jobs_for(
    names: Iterable[str], threads: Sequence[int] = (1,), device: Literal["cpu", "cuda"] = "cpu"
) -> list[BlockJob]:
    """Each block with each number of threads. Raises BlockError for a name that is none."""
    blocks = [describe(name).id for name in names]
    return [_job(block, Runtime(count), device) for block in dict.fromkeys(blocks) for count in threads]


def _job(block: str, runtime: Runtime, device: Literal["cpu", "cuda"]) -> BlockJob:
    text = f"{block} {runtime.key} {this_device(device).facts} {source_hash((block,))} {__version__}"
    return BlockJob(hashlib.sha256(text.encode()).hexdigest()[:24], block, runtime, device)


def run(
    jobs: Sequence[BlockJob], processes: int = MIN_PROCESSES, seconds: float = SECONDS, resume: bool = False, retry: bool = True,
    files: Sequence[str] = (), progress: Callable[[Progress], None] = lambda _: None, store: Store | None = None,
) -> Iterator[BlockLatency]:  # fmt: skip
    """Rows, as `zoo.measure.processes.Bench.run` has them; each process goes through all blocks."""
    yield from _Blocks(len(jobs)).run(jobs, processes, seconds, resume, retry, files, progress, store)


class _Blocks(Bench[BlockJob, BlockLatency]):
    kind = "block"

    def __init__(self, together: int) -> None:
        self.together = max(1, together)
        self.usual: dict[tuple[str, int], float | None] = {}

    def answers(self, jobs: Sequence[BlockJob], seconds: float, files: Sequence[str]) -> Iterator[Answer]:
        return _answers(BlockPlan(list(jobs), seconds, list(files)))

    def row(self, job: BlockJob, samples: Sequence[Sample], store: Store) -> BlockLatency:
        subject, device = Subject(job.block), this_device(job.device).id
        space = subject.spaces[0]
        module, x = subject.build(space, device="meta"), subject.input(space, batch=1, points=POSITIONS).to("meta")
        _, counted, _ = counts_of(subject, module, x)
        facts = {
            "block": job.block, "device": device, "runtime": msgspec.structs.replace(job.runtime, torch=samples[-1].torch),
            "input": list(x.shape), "params": sum(parameter.numel() for parameter in module.parameters()),
            "macs": sum(counted[kind] for kind in EXACT), "source": source_hash((job.block,)), "version": __version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        return compose(facts, samples, job.device == "cuda", self._usual(store, device, job.runtime.threads))

    def _usual(self, store: Store, device: str, threads: int) -> float | None:
        """What the anchor took on a device before this run."""
        if (device, threads) not in self.usual:
            self.usual[device, threads] = usual(store.block_rows(device=device, threads=threads))
        return self.usual[device, threads]

    def known(self, jobs: Sequence[BlockJob], store: Store) -> dict[str, BlockLatency]:
        clean = {
            (row.block, row.device, row.runtime.key): row
            for row in newest(store.block_rows(shipped=False, verdict="clean"))
        }
        rows = {}
        for job in jobs:
            row = clean.get((job.block, this_device(job.device).id, job.runtime.key))
            if row and not row.is_stale and is_of_today(row.runtime):
                rows[job.key] = row
        return rows

    def keep(self, rows: Sequence[BlockLatency], store: Store) -> None:
        store.add_blocks(rows)


def _answers(plan: BlockPlan) -> Iterator[Answer]:
    return answers_of("zoo.testing.block_worker", plan)
