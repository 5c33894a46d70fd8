"""Measuring in fresh processes, whatever it is that is measured: a plan goes to each, samples come back, and rows are made of them.

Nothing that was measured is lost: each sample goes into the store when it arrives, and a run that was broken off goes on there.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from zoo.errors import InputError, Problem
from zoo.measure.block_latency import BlockLatency
from zoo.measure.latency import MIN_PROCESSES, Latency, Sample
from zoo.measure.store import Store
from zoo.measure.worker import Answer
from zoo.system import children

RECENT, ENOUGH = 200, 10
"""Rows that say what the anchor usually takes: the last ones, and how few will do."""

KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_MAX_": "0"}
"""What a worker is told so that glibc keeps freed memory for the next pass. By its own rules it gives memory back after some passes and
not after others, as the largest block that was ever freed has it: a net then takes up to 1.6 times as long, and whether it does depends
on the nets that were timed before it in the same process."""


class Job(Protocol):
    """One figure to find. `subject` is what is run, which fails in all of its jobs or in none; `title` says the whole job."""

    @property
    def key(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def title(self) -> str: ...


class Plan(Protocol):
    """What a worker is told."""

    @property
    def jobs(self) -> Sequence[Job]: ...


class Progress(NamedTuple):
    """Where a run is: samples taken and to be taken, and what just came in."""

    done: int
    total: int
    note: str


J = TypeVar("J", bound=Job)
R = TypeVar("R", Latency, BlockLatency)


class Bench(ABC, Generic[J, R]):
    """Things of one kind that are measured: models, or blocks by themselves."""

    kind: ClassVar[str]
    together: int
    """Jobs that one process works through. More would pay for fewer starts; fewer let rows appear sooner, and their five processes lie
    closer in time."""

    @abstractmethod
    def answers(self, jobs: Sequence[J], seconds: float, files: Sequence[str]) -> Iterator[Answer]:
        """What a fresh process says of jobs."""

    @abstractmethod
    def row(self, job: J, samples: Sequence[Sample], store: Store) -> R:
        """The row of a job."""

    @abstractmethod
    def known(self, jobs: Sequence[J], store: Store) -> dict[str, R]:
        """Clean rows of this store, of today's code and torch, by the key of the job that would measure them again."""

    @abstractmethod
    def keep(self, rows: Sequence[R], store: Store) -> None:
        """Enters rows."""

    def run(
        self, jobs: Sequence[J], processes: int, seconds: float, resume: bool, retry: bool,
        files: Sequence[str], progress: Callable[[Progress], None], store: Store | None,
    ) -> Iterator[R]:  # fmt: skip
        """Rows, each as soon as its processes are done; one that is not clean is measured once more. Raises InputError for subjects
        that fail, behind the rows of all others. With `resume` what the store already holds of these jobs is not measured again:
        samples of a run that was broken off, and clean rows of today's code and torch, which come first."""
        with nullcontext(store) if store else Store() as held:
            if resume:
                resumed = self.known(jobs, held)
                yield from resumed.values()
                jobs = [job for job in jobs if job.key not in resumed]
            else:
                _forget(jobs, held)
            run = _Run(self, processes, seconds, files, held, progress, len(jobs) * processes)
            for start in range(0, len(jobs), self.together):
                chunk = jobs[start : start + self.together]
                rows = run.measured(chunk)
                again = [job for job in chunk if job.key in rows and rows[job.key].verdict != "clean"]
                if again and retry and processes >= MIN_PROCESSES:  # with fewer no row is clean
                    _forget(again, held)
                    clean = {key: row for key, row in rows.items() if row.verdict == "clean"}
                    rows = clean | run.measured(again, once_more=True)
                self.keep(list(rows.values()), held)
                _forget(chunk, held)
                yield from rows.values()
        if run.failed:
            expected = f"a {self.kind} that runs"
            raise InputError("bench", [Problem(subject, expected, why) for subject, why in run.failed.items()])


class _Run(Generic[J, R]):
    """A run that is under way: `done` of `total` samples are there; `failed` are the subjects that do not run, each with the reason."""

    def __init__(
        self, bench: Bench[J, R], processes: int, seconds: float, files: Sequence[str], store: Store,
        progress: Callable[[Progress], None], total: int,
    ):  # fmt: skip
        self.bench: Bench[J, R] = bench
        self.processes, self.seconds, self.files, self.store = processes, seconds, files, store
        self.progress, self.done, self.total = progress, 0, total
        self.failed: dict[str, str] = {}

    def measured(self, jobs: Sequence[J], once_more: bool = False) -> dict[str, R]:
        """Process after process, each through all jobs that lack its sample; what one that died did not reach, another takes up.
        Samples that are taken `once_more` count as done already."""
        by_key = {job.key: job for job in jobs}
        before = self.done - (len(jobs) * self.processes if once_more else 0)
        self.done = before
        for process in range(self.processes):
            while missing := self._missing(jobs, process):
                for answer in self.bench.answers(missing, self.seconds, self.files):
                    job = by_key[answer.key]
                    if answer.sample is None:
                        self.failed[job.subject] = answer.error
                    else:
                        self.store.add_sample(job.key, process, answer.sample)
                    self.done += 1
                    self.progress(Progress(self.done, self.total, job.title))
        self.done = before + len(jobs) * self.processes
        left = [job for job in jobs if job.subject not in self.failed]
        return {job.key: self.bench.row(job, list(self.store.samples(job.key).values()), self.store) for job in left}

    def _missing(self, jobs: Sequence[J], process: int) -> list[J]:
        return [job for job in jobs if job.subject not in self.failed and process not in self.store.samples(job.key)]


def _forget(jobs: Iterable[Job], store: Store) -> None:
    for job in jobs:
        store.forget_samples(job.key)


def answers_of(worker: str, plan: Plan) -> Iterator[Answer]:
    """What a fresh process of a module says, line by line. One that dies is an answer, too."""
    environment = os.environ | KEPT_MEMORY | {"PYTHONPATH": children.search_path()}
    open_jobs = [job.key for job in plan.jobs]
    with (
        tempfile.TemporaryFile() as output,  # a pipe that nobody reads would fill up, and stop it
        subprocess.Popen(
            children.command(worker), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
        ) as process,
    ):
        assert process.stdin and process.stdout
        try:
            with suppress(BrokenPipeError):  # it died before it listened, which its silence will tell
                process.stdin.write(msgspec.json.encode(plan))
                process.stdin.close()
            for line in process.stdout:
                answer = msgspec.json.decode(line, type=Answer)
                open_jobs.remove(answer.key)
                yield answer
            output.seek(0)
            last = (output.read().decode(errors="replace").strip().splitlines() or ["no word"])[-1]
        finally:
            process.kill()
    if open_jobs:
        yield Answer(open_jobs[0], None, f"its process ended: {last}")


def usual(rows: Sequence[Latency] | Sequence[BlockLatency]) -> float | None:
    """What the anchor lately took beside these rows, in ms; None where they are too few to say.

    Of all rows, good and bad: a machine that stays slower is measured by what it is, after a while.
    """
    times = [row.anchor_ms for row in rows[-RECENT:]]
    return statistics.median(times) if len(times) >= ENOUGH else None
