"""Measuring models in fresh processes: the plan, the workers, the rows. `zoo bench` and `zoo.bench` are this.

Nothing that was measured is lost: each sample goes into the store when it arrives, and a run that was broken off goes on there.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Any, Literal, NamedTuple

import msgspec

from zoo import __version__, catalog
from zoo.catalog.sources import spec as find_spec
from zoo.display.rows import flat, tabled
from zoo.errors import InputError, Problem
from zoo.measure.engines import engines_named, refuse_impossible, usual_forms
from zoo.measure.latency import MIN_PROCESSES, Latency, Runtime, Sample, compose
from zoo.measure.store import Store, check_device, newest
from zoo.measure.this_device import this_device
from zoo.measure.work_hash import work_hash, work_of
from zoo.measure.worker import ANCHOR, Answer, Job, Plan
from zoo.runtimes.registered import version_of
from zoo.specs.model import Spec
from zoo.system import children

JOBS_PER_PROCESS = 16
"""More would pay for fewer starts; fewer let rows appear sooner, and their five processes lie closer in time."""


RECENT, ENOUGH = 200, 10
"""Rows that say what the anchor usually takes: the last ones, and how few will do."""

KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_MAX_": "0"}
"""What a worker is told so that glibc keeps freed memory for the next pass. By its own rules it gives memory back after some passes and
not after others, as the largest block that was ever freed has it: a net then takes up to 1.6 times as long, and whether it does depends
on the nets that were timed before it in the same process."""


class Progress(NamedTuple):
    """Where a run is: samples taken and to be taken, and what just came in."""

    done: int
    total: int
    note: str


def jobs_for(
    models: Iterable[str], forms: Sequence[str], threads: Sequence[int], batches: Sequence[int] = (1,),
    dtypes: Sequence[str] = ("float32",), engines: Sequence[str] = ("eager",), device: Literal["cpu", "cuda"] = "cpu",
) -> list[Job]:  # fmt: skip
    """Every combination, those of one model and form in a row. Raises InputError for an engine that cannot run them here."""
    runtimes = [
        Runtime(count, dtype, batch, engine)
        for engine in engines
        for dtype in dtypes
        for batch in batches
        for count in threads
    ]
    refuse_impossible(runtimes, forms, device)
    return [_job(model, form, runtime, device) for model in models for form in forms for runtime in runtimes]


def _job(model: str, form: Any, runtime: Runtime, device: Literal["cpu", "cuda"]) -> Job:
    # not the device's id: a machine first seen on a busy day gets another, and the run goes on
    facts = this_device(device).facts
    text = f"{_spec(model).digest} {form} {runtime.key} {facts} {work_today(model, form)} {__version__}"
    return Job(hashlib.sha256(text.encode()).hexdigest()[:24], model, form, runtime, device)


@functools.lru_cache(maxsize=4096)
def _spec(model: str) -> Spec:
    return find_spec(model)


@functools.lru_cache(maxsize=4096)
def work_today(model: str, form: str) -> str:
    """Hash of the work of a model: as it ships with the catalogue, of any other spec counted on meta."""
    spec = _spec(model)
    entry = catalog.entries().get(spec.name)
    if entry is not None and entry.digest == spec.digest:
        return work_of(spec.name, form)
    from zoo.build.builder import build
    from zoo.measure.load_counter import load_of

    return work_hash(load_of(build(spec), form))


def run(
    jobs: Sequence[Job], processes: int = MIN_PROCESSES, seconds: float = 0.3, resume: bool = False, retry: bool = True,
    files: Sequence[str] = (), progress: Callable[[Progress], None] = lambda _: None, store: Store | None = None,
) -> Iterator[Latency]:  # fmt: skip
    """Rows, each as soon as its processes are done; one that is not clean is measured once more. Raises InputError for models that
    fail, behind the rows of all others. With `resume` what the store already holds of these jobs is not measured again: samples of a
    run that was broken off, and clean rows of today's work and torch, which come first."""
    with nullcontext(store) if store else Store() as held:
        if resume:
            resumed = _known(jobs, held)
            yield from resumed.values()
            jobs = [job for job in jobs if job.key not in resumed]
        else:
            for job in jobs:
                held.forget_samples(job.key)
        failed: dict[str, str] = {}
        total, done = len(jobs) * processes, 0
        for start in range(0, len(jobs), JOBS_PER_PROCESS):
            chunk = list(jobs[start : start + JOBS_PER_PROCESS])
            done += len(chunk) * processes
            rows = _measured(
                chunk, processes, seconds, files, held, failed, progress, done - len(chunk) * processes, total
            )
            doubtful = {row.digest + row.form + row.runtime.key for row in rows if row.verdict != "clean"}
            again = [job for job in chunk if _spec(job.model).digest + job.form + job.runtime.key in doubtful]
            if again and retry and processes >= MIN_PROCESSES:  # with fewer no row is clean
                for job in again:
                    held.forget_samples(job.key)
                better = _measured(again, processes, seconds, files, held, failed, progress, done, total)
                rows = [row for row in rows if row.verdict == "clean"] + better
            held.add(rows)
            for job in chunk:
                held.forget_samples(job.key)
            yield from rows
    if failed:
        raise InputError("bench", [Problem(model, "a model that runs", why) for model, why in failed.items()])


def _known(jobs: Sequence[Job], store: Store) -> dict[str, Latency]:
    """Clean rows of this store, of today's work and torch, by the key of the job that would measure them again."""
    newest_rows = {
        (row.digest, row.form, row.device, row.runtime.key): row
        for row in newest(store.rows(shipped=False, verdict="clean"))
    }
    rows = {}
    for job in jobs:
        row = newest_rows.get((_spec(job.model).digest, job.form, this_device(job.device).id, job.runtime.key))
        if row and row.source == work_today(job.model, job.form) and _is_of_today(row.runtime):
            rows[job.key] = row
    return rows


def _is_of_today(runtime: Runtime) -> bool:
    """Whether it was measured with the torch, or the other runtime, that is installed."""
    if runtime.is_torch:
        return runtime.torch.partition("+")[0] == importlib.metadata.version("torch").partition("+")[0]
    return runtime.version == version_of(runtime.engine)


def _measured(
    jobs: list[Job], processes: int, seconds: float, files: Sequence[str], store: Store, failed: dict[str, str],
    progress: Callable[[Progress], None], done: int, total: int,
) -> list[Latency]:  # fmt: skip
    """Process after process, each through all jobs that lack its sample; what one that died did not reach, another takes up."""
    names = {job.key: f"{job.model} {job.form} {job.runtime.key}" for job in jobs}
    for process in range(processes):
        while missing := [job for job in jobs if job.model not in failed and process not in store.samples(job.key)]:
            for answer in _answers(Plan(missing, seconds, list(files))):
                job = next(job for job in jobs if job.key == answer.key)
                if answer.sample is None:
                    failed[job.model] = answer.error
                else:
                    store.add_sample(job.key, process, answer.sample)
                done += 1
                progress(Progress(done, total, names[answer.key]))
    return [_row(job, list(store.samples(job.key).values()), store) for job in jobs if job.model not in failed]


def glance(jobs: Sequence[Job], seconds: float, store: Store) -> Iterator[tuple[Job, Latency | None]]:
    """One sample of each, all in one fresh process, as rows that the store keeps apart from measurements; None for a model that fails."""
    by_key = {job.key: job for job in jobs}
    for answer in _answers(Plan(list(jobs), seconds)):
        job = by_key[answer.key]
        row = _row(job, [answer.sample], store) if answer.sample else None
        store.add_glances([row] if row else [])
        yield job, row


def _answers(plan: Plan) -> Iterator[Answer]:
    """What a fresh worker process says, line by line. One that dies is an answer, too."""
    command = children.command("zoo.measure.worker")
    environment = os.environ | KEPT_MEMORY | {"PYTHONPATH": children.search_path()}
    open_jobs = [job.key for job in plan.jobs]
    with (
        tempfile.TemporaryFile() as output,  # a pipe that nobody reads would fill up, and stop it
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
        ) as worker,
    ):
        assert worker.stdin and worker.stdout
        try:
            with suppress(BrokenPipeError):  # it died before it listened, which its silence will tell
                worker.stdin.write(msgspec.json.encode(plan))
                worker.stdin.close()
            for line in worker.stdout:
                answer = msgspec.json.decode(line, type=Answer)
                open_jobs.remove(answer.key)
                yield answer
            output.seek(0)
            last = (output.read().decode(errors="replace").strip().splitlines() or ["no word"])[-1]
        finally:
            worker.kill()
    if open_jobs:
        yield Answer(open_jobs[0], None, f"its process ended: {last}")


def _row(job: Job, samples: list[Sample], store: Store) -> Latency:
    from zoo.build.inputs import meta_input

    spec, device = _spec(job.model), this_device(job.device).id
    facts = {
        "model": spec.name, "digest": spec.digest, "form": job.form, "device": device,
        "runtime": msgspec.structs.replace(job.runtime, torch=samples[-1].torch, version=samples[-1].version),
        "input": list(meta_input(spec, job.runtime.batch).shape), "anchor": ANCHOR, "source": work_today(job.model, job.form),
        "version": __version__, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return compose(facts, samples, job.device == "cuda", usual_anchor(store, device, job.runtime.threads))


def usual_anchor(store: Store, device: str, threads: int) -> float | None:
    """What the anchor lately took on a device, in ms; None where too little was measured to say.

    Of all rows, good and bad: a machine that stays slower is measured by what it is, after a while.
    """
    times = [row.anchor_ms for row in store.rows(glances=True, device=device, threads=threads)[-RECENT:]]
    return statistics.median(times) if len(times) >= ENOUGH else None


@tabled
def bench(
    *models: str | Iterable[str], forms: Sequence[str] | None = None, threads: Sequence[int] = (1,), batches: Sequence[int] = (1,),
    dtypes: Sequence[str] = ("float32",), engine: Literal["eager", "compile"] = "eager", device: Literal["cpu", "cuda"] = "cpu",
    processes: int = MIN_PROCESSES, seconds: float = 0.3, resume: bool = False, runtimes: Sequence[str] = (),
) -> list[Latency]:  # fmt: skip
    """Measures models (names, or a list of them) on this machine, in fresh processes, and stores the rows.

    runtimes: `torch`, `compile`, `onnxruntime`, `openvino` and others that `zoo.deploy` takes, or `any` for torch and all that are
    installed; `engine` is the older word for the first two. forms: the train form, or the deploy form for runtimes that run no other.
    Raises InputError for a runtime that cannot be had, and behind all other rows for models that fail."""
    engines = engines_named(runtimes, "bench") if runtimes else [engine]
    jobs = jobs_for(flat(models), forms or usual_forms(engines), threads, batches, dtypes, engines, device)
    return list(run(jobs, processes, seconds, resume))


@tabled
def latency(model: str, device: str = "this", **wanted: Any) -> list[Latency]:
    """What the store holds of a model: rows of this machine, of a named device, or with `device=""` of all.

    `wanted` are values of a row's or its runtime's fields: `form="deploy"`, `threads=1`, `verdict="clean"`. Raises
    InputError for a device that is not known.
    """
    with Store() as store:
        if device:
            wanted["device"] = this_device().id if device == "this" else device
        rows = store.rows(digest=_spec(model).digest, **wanted)
        if not rows and device not in ("", "this"):
            check_device(store, device, "latency")
        return rows
